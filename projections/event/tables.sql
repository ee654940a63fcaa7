-- Every event as it is told outside, in log order: histories, feeds, the audit log.
-- Indexes are statements of their own, keys of growing tables too: a rebuild fills the tables first.

CREATE TABLE ledger.event_g$generation (
    position bigint NOT NULL,
    number text NOT NULL,               -- of its ids: year and position
    line_id text,                       -- null: not a line's
    organization_id text,               -- null: no tenant's
    workspace_id text,
    type text,                          -- what it is called outside; null: told in no history
    in_feed boolean NOT NULL,           -- whether feeds carry it
    state_before text,                  -- of the line; null at its first event
    state_after text,
    told text NOT NULL,                 -- JSON members: who and when
    said text,                          -- … and the rest of the envelope
    audit text,                         -- fact, command or refused; null: not in the audit log
    action text,
    actor_type text NOT NULL,
    actor_id text NOT NULL,
    audited text                        -- JSON members: the rest of the audit log's entry
);

CREATE UNIQUE INDEX ON ledger.event_g$generation (position);
-- The history of a line.
CREATE INDEX ON ledger.event_g$generation (line_id, position);
-- Feeds and the audit log of a tenant; feeds by type, which may be rare.
CREATE INDEX ON ledger.event_g$generation (organization_id, position);
CREATE INDEX ON ledger.event_g$generation (organization_id, workspace_id, position);
CREATE INDEX ON ledger.event_g$generation (organization_id, type, position);
-- What an actor did. (With the tenant first, PostgreSQL would rather sort what the tenant did.)
CREATE INDEX ON ledger.event_g$generation (actor_id, organization_id, position);
-- Commands and refusals, which are few among facts.
CREATE INDEX ON ledger.event_g$generation (organization_id, position)
    WHERE audit IN ('command', 'refused');

-- What the fold needs to know of a line.
CREATE TABLE ledger.event_line_g$generation (
    line_id text PRIMARY KEY,
    fold bytea NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 80);
