-- Indexes are statements of their own, keys of growing tables too: a rebuild fills the tables first.

-- Runs as they are.

CREATE TABLE ledger.run_g$generation (
    run_id text PRIMARY KEY,
    run_key bigint NOT NULL,            -- the run id as a number: breaks ties in the list's order
    line_id text NOT NULL,
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    opened bigint NOT NULL,             -- position: before it the run was not known
    status text NOT NULL,
    triggered_by text,                  -- the actor's id
    head text NOT NULL,                 -- JSON members before input, output and error
    tail text NOT NULL,                 -- … and after them, but for erased_at
    erased_at timestamptz,
    fold bytea NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 80);

-- The runs of a line, newest first; those of the past leave out, in the index, what came later.
CREATE INDEX ON ledger.run_g$generation (line_id, requested_at DESC, run_key DESC, opened);
-- Those that are at work, or came to nothing, among the many that are done.
CREATE INDEX ON ledger.run_g$generation (line_id, requested_at DESC, run_key DESC)
    WHERE status <> 'completed';

-- What each event made of a run. Input, output and error are ciphertext here too.
CREATE TABLE ledger.run_version_g$generation (
    run_id text NOT NULL,
    position bigint NOT NULL,
    status text NOT NULL,
    triggered_by text,
    head text NOT NULL,
    tail text NOT NULL,
    input bytea,                        -- what this very event brought
    output bytea,
    error bytea
);

CREATE UNIQUE INDEX ON ledger.run_version_g$generation (run_id, position);

-- A line's runs by status on the day of their start, and tokens on the day of their end.
CREATE TABLE ledger.run_day_g$generation (
    line_id text NOT NULL,
    kind text NOT NULL,                 -- runs or tokens
    day date NOT NULL,                  -- UTC
    position bigint NOT NULL,
    at timestamptz NOT NULL,            -- the start, or the end
    change text NOT NULL,               -- JSON: amounts by status, or the tokens
    total text NOT NULL,                -- the same, for the day up to this position
    PRIMARY KEY (line_id, kind, day, position)
);
