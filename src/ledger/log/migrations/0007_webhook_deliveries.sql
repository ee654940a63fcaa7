-- What became of webhooks, outside: no log tells it, so these tables are no view. Which events an
-- endpoint gets, and their numbers, is the view's business (webhook.sql).

SET LOCAL lock_timeout = '5s';

-- A delivery that was begun. The dispatcher alone writes here, on the connection that holds its
-- lock; what it has in hand is in its memory, and in due time here again should it die.
CREATE TABLE ledger.delivery (
    endpoint_id text NOT NULL,
    position bigint NOT NULL,                -- of the event
    sequence bigint NOT NULL,                -- 0: a test
    status text NOT NULL DEFAULT 'pending',
    round bigint NOT NULL DEFAULT 0,         -- position of the recovery that began it; at first 0
    tried integer NOT NULL DEFAULT 0,        -- failed attempts of this round
    attempts text[] NOT NULL DEFAULT '{}',   -- JSON, the latest last
    due_at timestamptz,                      -- when it is tried, or given up, next
    CONSTRAINT delivery_pkey PRIMARY KEY (endpoint_id, position),
    CONSTRAINT delivery_status_known CHECK (status IN ('pending', 'delivered', 'failed')),
    CONSTRAINT delivery_pending_is_due CHECK ((status = 'pending') = (due_at IS NOT NULL)),
    CONSTRAINT delivery_numbers_from_zero CHECK (sequence >= 0 AND round >= 0 AND tried >= 0)
) WITH (fillfactor = 70);

-- What to try next, and what a recovery has to look at.
CREATE INDEX delivery_due ON ledger.delivery (endpoint_id, due_at) WHERE status = 'pending';
CREATE INDEX delivery_failed ON ledger.delivery (endpoint_id, position) WHERE status = 'failed';

-- How far the dispatcher is with each endpoint.
CREATE TABLE ledger.dispatch (
    endpoint_id text PRIMARY KEY,
    planned bigint NOT NULL DEFAULT 0,       -- events up to this position have become deliveries
    heeded bigint NOT NULL DEFAULT 0,        -- tests and recoveries up to this one were heeded
    failing_since timestamptz,               -- the first failure since the last success
    CONSTRAINT dispatch_positions_from_zero CHECK (planned >= 0 AND heeded >= 0)
) WITH (fillfactor = 50);

GRANT SELECT ON ledger.delivery, ledger.dispatch TO ledger_api;
