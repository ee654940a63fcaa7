-- Every event of lines and runs, as it is told outside, in log order.

CREATE TABLE ledger.event_g$generation (
    position bigint PRIMARY KEY,
    line_id text NOT NULL,
    organization_id text NOT NULL,
    workspace_id text NOT NULL,
    type text NOT NULL,
    recorded_at timestamptz NOT NULL,
    state_before text,                  -- of the line; null at its first event
    state_after text NOT NULL,
    item text NOT NULL                  -- JSON members of the envelope
);

-- The history of a line.
CREATE INDEX ON ledger.event_g$generation (line_id, position);

-- What the fold needs to know of a line.
CREATE TABLE ledger.event_line_g$generation (
    line_id text PRIMARY KEY,
    fold bytea NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 80);
