-- The leases of open runs: a run of which nothing arrives for so long fails.

SET LOCAL lock_timeout = '5s';

-- A heartbeat moves heard_at and ends_at, which no index has: so its update stays within the page
-- (HOT). The indexed due_at is when the lease is looked at next, never after its end.
CREATE TABLE ledger.lease (
    run_id text PRIMARY KEY,
    seconds integer NOT NULL,
    heard_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT lease_looked_at_by_its_end CHECK (due_at <= ends_at)
) WITH (fillfactor = 70);
CREATE INDEX lease_due_at_idx ON ledger.lease (due_at);

-- When a node of the service was last able to take heartbeats. Time without such a node does not
-- count in any lease.
CREATE TABLE ledger.listening (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT listening_one_row CHECK (is_only),
    listened_at timestamptz NOT NULL
);

INSERT INTO ledger.listening (listened_at) VALUES ('1970-01-01T00:00:00Z');

GRANT SELECT ON ledger.lease TO ledger_api;
