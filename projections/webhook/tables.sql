-- Webhook endpoints, and in order what the dispatcher has to do for each.
-- Indexes are statements of their own, keys of growing tables too: a rebuild fills the tables first.

-- The sequence moves with every event that matches: no index may name what changes, so that such an
-- update stays within its page and leaves nothing behind for a vacuum.
CREATE TABLE ledger.webhook_g$generation (
    endpoint_id text PRIMARY KEY,
    endpoint_key bigint NOT NULL,       -- the id as a number: the list's order
    organization_id text NOT NULL,
    workspace_id text,                  -- null: the whole organization's
    deleted boolean NOT NULL,
    enabled boolean NOT NULL,
    enabled_at timestamptz,             -- since when it is enabled, or was the last time
    sequence bigint NOT NULL,           -- events that have matched
    latest bigint NOT NULL,             -- position of the latest of them
    requested bigint NOT NULL,          -- position of the latest test or recovery asked for
    item text NOT NULL,                 -- JSON members: how its owner sees it
    fold bytea NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX ON ledger.webhook_g$generation (organization_id);

-- What there is to be done: an event to be delivered, a test, a recovery.
CREATE TABLE ledger.webhook_message_g$generation (
    endpoint_id text NOT NULL,
    position bigint NOT NULL,
    number text NOT NULL,               -- of the event's id: year and position
    kind text NOT NULL,                 -- event, test or recovery
    sequence bigint,                    -- 1, 2, 3 …; 0 for a test, null for a recovery
    type text,                          -- of the event
    item text,                          -- JSON members of a test's envelope; it is in no feed
    since timestamptz                   -- of a recovery
);

CREATE UNIQUE INDEX ON ledger.webhook_message_g$generation (endpoint_id, position);
CREATE INDEX ON ledger.webhook_message_g$generation (endpoint_id, position) WHERE kind <> 'event';

-- What the fold needs to know of a line's health: a report that changes nothing is not published.
CREATE TABLE ledger.webhook_health_g$generation (
    line_id text PRIMARY KEY,
    statuses text NOT NULL,             -- JSON: each signal's status
    position bigint NOT NULL
) WITH (fillfactor = 80);
