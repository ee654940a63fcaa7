-- What makes a command safe to send again, and what keeps refusals from filling the disk. Both are
-- written in the append transaction, under its lock.

SET LOCAL lock_timeout = '5s';

-- The outcome of a command that was sent under an Idempotency-Key. Kept for 24 hours.
CREATE TABLE ledger.idempotency (
    credential text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,   -- SHA-256 of the request
    outcome bytea NOT NULL,       -- JSON, encrypted: it may show a secret
    recorded_at timestamptz NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (credential, path, key)
);

-- The old ones are dropped.
CREATE INDEX idempotency_recorded_at ON ledger.idempotency (recorded_at);

-- Refusals beyond those that are recorded singly, until an event says how many they were.
CREATE TABLE ledger.refusals_omitted (
    credential text PRIMARY KEY,
    organization_id text,
    workspace_id text,
    since timestamptz NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT refusals_omitted_count_from_one CHECK (count >= 1)
) WITH (fillfactor = 50);
