-- Spans that others need: by them a run finds its parent, and the tokens of the spans below it.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.span (
    organization_id text NOT NULL,
    trace_id bytea NOT NULL
        CONSTRAINT span_trace_id_of_16_bytes CHECK (octet_length(trace_id) = 16),
    span_id bytea NOT NULL
        CONSTRAINT span_span_id_of_8_bytes CHECK (octet_length(span_id) = 8),
    parent_id bytea,                -- null: the span is a root
    workspace_id text NOT NULL,     -- of the credential that sent the span; '': all workspaces
    source text,                    -- of a run: with the ids its name; null: the span is no run
    model text,
    input bigint,                   -- null: the span used no tokens
    output bigint,
    cache_read bigint,
    cache_write bigint,
    reasoning bigint,
    response_id text,               -- of the model's answer, which two spans may tell
    number bigint NOT NULL,         -- rises in an organization: the oldest leave first
    arrived_at timestamptz NOT NULL,
    PRIMARY KEY (span_id, trace_id, organization_id, workspace_id)
);

-- No two indexes serve the same look-up: statements are planned while the table is empty, and then
-- all indexes that can serve one seem to be alike.
CREATE INDEX span_parent_id_idx ON ledger.span (parent_id, trace_id, organization_id);
CREATE INDEX span_number_idx ON ledger.span (hashtext(organization_id), number);
CREATE INDEX span_arrived_at_idx ON ledger.span USING brin (arrived_at);
