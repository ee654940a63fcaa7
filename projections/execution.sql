-- One row a line: what lists filter by, and the ready JSON of list row and detail.

CREATE TABLE ledger.execution_g$generation (
    line_id text PRIMARY KEY,
    record_key bigint NOT NULL,         -- the record id as a number: the list's order
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    execution_model text NOT NULL,
    product_line text NOT NULL,
    project_tags text[] NOT NULL,
    state text NOT NULL,
    causes text[] NOT NULL,             -- of the open blockers, each once
    open_runs integer NOT NULL,
    quiet_since timestamptz NOT NULL,   -- last activity or change: where the idle clock starts
    head text NOT NULL,                 -- JSON members of both list row and detail
    extra text NOT NULL,                -- JSON members of the detail alone
    metrics text NOT NULL,              -- metrics in a period without activity
    period_1 date,                      -- the latest period with activity …
    metrics_1 text,                     -- … and the metrics in it
    period_2 date,
    metrics_2 text,
    fold bytea NOT NULL,                -- the fold's own state
    position bigint NOT NULL            -- of the event that last touched the row
) WITH (fillfactor = 80);

-- Lists, by tenant and its usual filters, in the list's order.
CREATE UNIQUE INDEX ON ledger.execution_g$generation (record_key);
CREATE INDEX ON ledger.execution_g$generation (organization_id, record_key);
CREATE INDEX ON ledger.execution_g$generation (organization_id, state, record_key);
CREATE INDEX ON ledger.execution_g$generation (workspace_id, state, record_key);
-- Lists by project.
CREATE INDEX ON ledger.execution_g$generation USING gin (project_tags);
-- The idle sweeper's candidates.
CREATE INDEX ON ledger.execution_g$generation (execution_model, quiet_since)
    WHERE state = 'running' AND open_runs = 0;

CREATE OR REPLACE VIEW ledger.execution WITH (security_invoker = true) AS
SELECT * FROM ledger.execution_g$generation;

GRANT SELECT ON ledger.execution, ledger.execution_g$generation TO ledger_api;
