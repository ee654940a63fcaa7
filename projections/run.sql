-- One row a run. Input, output and error are ciphertext here too; the edge opens them.

CREATE TABLE ledger.run_g$generation (
    run_id text PRIMARY KEY,
    run_key bigint NOT NULL,            -- the run id as a number: breaks ties in the list's order
    line_id text NOT NULL,
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    status text NOT NULL,
    triggered_by text,                  -- the actor's id
    requested_at timestamptz NOT NULL,
    head text NOT NULL,                 -- JSON members before input, output and error
    tail text NOT NULL,                 -- … and after them
    input bytea,
    output bytea,
    error bytea,
    fold bytea NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 80);

-- The runs of a line, newest first.
CREATE INDEX ON ledger.run_g$generation (line_id, requested_at DESC, run_key DESC);

CREATE OR REPLACE VIEW ledger.run WITH (security_invoker = true) AS
SELECT * FROM ledger.run_g$generation;

GRANT SELECT ON ledger.run, ledger.run_g$generation TO ledger_api;
