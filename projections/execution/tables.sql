-- Indexes are statements of their own, keys of growing tables too: a rebuild fills the tables first.

-- Lines as they are: what lists filter by, and the ready JSON of list row and detail.

CREATE TABLE ledger.execution_g$generation (
    line_id text PRIMARY KEY,
    record_key bigint NOT NULL,         -- the record id as a number: the list's order
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    execution_model text NOT NULL,
    product_line text NOT NULL,
    activated bigint NOT NULL,          -- position: before it the line did not exist
    project_tags text[] NOT NULL,
    state text NOT NULL,
    causes text[] NOT NULL,             -- of the open blockers, each once
    head text NOT NULL,                 -- JSON members of both list row and detail
    extra text NOT NULL,                -- JSON members of the detail alone
    counts text NOT NULL,               -- JSON members of both, changed by runs and check-ins
    metrics text NOT NULL,              -- the metrics that do not follow the clock
    quiet text NOT NULL,                -- the one that does, in a period without activity,
    period_1 date,                      -- in the latest period with activity …
    now_1 text,
    period_2 date,                      -- … and in the one before
    now_2 text,
    fold bytea NOT NULL,                -- the fold's own state
    position bigint NOT NULL            -- of the event that last touched the row
) WITH (fillfactor = 70, toast_tuple_target = 4080);

-- A row is written with every activity of its line. So it is not compressed each time, unless it is
-- larger than half a page; and then what lists read of it stays as it is, where it is.
ALTER TABLE ledger.execution_g$generation ALTER head SET STORAGE MAIN,
    ALTER counts SET STORAGE MAIN, ALTER metrics SET STORAGE MAIN;

-- Lists, by tenant, in the list's order; lists of the past leave out, in the index, what was
-- activated later.
CREATE INDEX ON ledger.execution_g$generation (record_key, activated);
CREATE INDEX ON ledger.execution_g$generation (organization_id, record_key, activated);
CREATE INDEX ON ledger.execution_g$generation (workspace_id, record_key, activated);
-- Lists by what few lines, or none, may be: a walk for each of the values (see lists.py). The tenant
-- comes after them, so that what is rare in all tenants is found too.
CREATE INDEX ON ledger.execution_g$generation (state, organization_id, record_key);
CREATE INDEX ON ledger.execution_g$generation (workspace_id, state, record_key);
CREATE INDEX ON ledger.execution_g$generation
    (execution_model, product_line, organization_id, record_key, state);
CREATE INDEX ON ledger.execution_g$generation
    (workspace_id, execution_model, product_line, record_key, state);
CREATE INDEX ON ledger.execution_g$generation (organization_id, record_key) WHERE causes <> '{}';
-- Lists by a project and what changes in a line's life; counts by several projects.
CREATE INDEX ON ledger.execution_g$generation USING gin (project_tags);

-- Which lines have a project tag, or had it: lists by project, in the list's order.
CREATE TABLE ledger.execution_tag_g$generation (
    line_id text NOT NULL,
    project_tag text NOT NULL,
    present boolean NOT NULL,           -- whether the line has it now
    record_key bigint NOT NULL,
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (line_id, project_tag)
);

CREATE INDEX ON ledger.execution_tag_g$generation
    (organization_id, project_tag, record_key, workspace_id) WHERE present;

-- The idle sweeper's candidates, apart: the rows above are wide, have many indexes, and change in
-- place (HOT) as long as no indexed column does. Rounded down, so that a busy line's row changes once
-- a minute and not with every activity; the sweeper looks at the exact instants of those it finds.
CREATE TABLE ledger.execution_quiet_g$generation (
    line_id text PRIMARY KEY,
    execution_model text NOT NULL,
    quiet_since timestamptz,            -- minute of the last activity or change; null: has open
                                        -- runs, or does not run
    changed_at timestamptz,             -- the last change, exactly
    position bigint NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX ON ledger.execution_quiet_g$generation (execution_model, quiet_since)
    WHERE quiet_since IS NOT NULL;

-- How many lines are what: a summary adds up what it asks for. Nothing that is counted is indexed,
-- so that an update stays within its page (HOT); the key begins with what a summary always gives.
CREATE TABLE ledger.execution_count_g$generation (
    per text NOT NULL,                  -- organization, workspace or project_tag
    project_tag text NOT NULL,          -- empty unless per project tag
    workspace_id text NOT NULL,         -- empty where per organization
    organization_id text NOT NULL,
    execution_model text NOT NULL,
    product_line text NOT NULL,
    state text NOT NULL,
    causes text[] NOT NULL,             -- of the open blockers, sorted, each once
    lines bigint NOT NULL,              -- none are left where all have moved on
    position bigint NOT NULL,
    PRIMARY KEY (per, project_tag, workspace_id, organization_id, execution_model, product_line,
                 state, causes)
) WITH (fillfactor = 70);

-- Who was in which state, with which causes and tags, from position to position.
CREATE TABLE ledger.execution_interval_g$generation (
    line_id text NOT NULL,
    opened bigint NOT NULL,             -- position of the event that began it
    ended bigint NOT NULL,              -- position of the one that ended it; the largest: none yet
    since timestamptz NOT NULL,         -- effective time of the latest change of state or causes
    turned boolean NOT NULL,            -- whether state or causes changed here, not tags alone
    state text NOT NULL,
    causes text[] NOT NULL,
    project_tags text[] NOT NULL,
    record_key bigint NOT NULL,
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    execution_model text NOT NULL,
    product_line text NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (line_id, opened)
);

-- Lists of the past by what changes, in the list's order; both ends are looked at in the index.
CREATE INDEX ON ledger.execution_interval_g$generation
    (organization_id, state, record_key, opened, ended);
CREATE INDEX ON ledger.execution_interval_g$generation
    (workspace_id, state, record_key, opened, ended);
CREATE INDEX ON ledger.execution_interval_g$generation
    (organization_id, record_key, opened, ended) WHERE causes <> '{}';
CREATE INDEX ON ledger.execution_interval_g$generation USING gin (project_tags);
-- Timelines: the turning points of a line by effective time.
CREATE INDEX ON ledger.execution_interval_g$generation (line_id, since, opened DESC) WHERE turned;

-- What a line's row showed after each event of its own stream that changed it …
CREATE TABLE ledger.execution_version_g$generation (
    line_id text NOT NULL,
    position bigint NOT NULL,
    head text NOT NULL,
    extra text NOT NULL
);

CREATE UNIQUE INDEX ON ledger.execution_version_g$generation (line_id, position);

-- … and after each event that changed its counts or metrics.
CREATE TABLE ledger.execution_step_g$generation (
    line_id text NOT NULL,
    position bigint NOT NULL,
    counts text NOT NULL,
    metrics text NOT NULL,
    quiet text NOT NULL,
    period_1 date,
    now_1 text,
    period_2 date,
    now_2 text
);

CREATE UNIQUE INDEX ON ledger.execution_step_g$generation (line_id, position);

-- Hundredths of hours: what each check-in or void changed, what its resource came to that day.
CREATE TABLE ledger.execution_day_g$generation (
    line_id text NOT NULL,
    day date NOT NULL,                  -- UTC
    resource_id text NOT NULL,          -- empty: none
    position bigint NOT NULL,
    at timestamptz NOT NULL,            -- the check-in's time
    change bigint NOT NULL,
    total bigint NOT NULL,              -- of the day up to this position
    PRIMARY KEY (line_id, day, resource_id, position)
);
