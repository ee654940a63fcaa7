-- API keys that expire and are rotated, with who created them and when they were last used.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.api_key
    ADD COLUMN expires_at timestamptz,   -- from this instant on the key is refused
    ADD COLUMN prefix text,              -- the first characters of the present token
    ADD COLUMN created_by_type text,
    ADD COLUMN created_by_id text;

-- Who created the keys that there are, as the first event of each stream says. In format 1 the
-- envelope is an object, in format 2 an array.
UPDATE ledger.api_key AS k
SET created_by_type = coalesce(told.by ->> 'type', told.by ->> 0),
    created_by_id = coalesce(told.by ->> 'id', told.by ->> 1)
FROM (
    SELECT e.originator_id,
        coalesce(convert_from(e.state, 'UTF8')::json -> 'actor',
                 convert_from(e.state, 'UTF8')::json -> 6) AS by
    FROM ledger.api_key AS asked
    JOIN ledger.ledger_events AS e
      ON e.originator_id = asked.key_id AND e.originator_version = 1
) AS told
WHERE told.originator_id = k.key_id;

-- Lists of keys, newest first: of an organization, and of all.
CREATE INDEX api_key_of_organization ON ledger.api_key (organization_id, created_at);
CREATE INDEX api_key_by_creation ON ledger.api_key (created_at);

-- Secrets that a rotation has replaced. Derivable from the log, as the keys are.
CREATE TABLE ledger.former_secret (
    secret_hash bytea PRIMARY KEY,
    key_id text NOT NULL,
    organization_id text,
    workspace_id text,
    valid_until timestamptz NOT NULL     -- from this instant on the secret is refused
);
CREATE INDEX former_secret_of_key ON ledger.former_secret (key_id);

-- When each key was last used. Not in the log: workers write it from time to time.
CREATE TABLE ledger.key_use (
    key_id text PRIMARY KEY,
    organization_id text,
    workspace_id text,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 70);

GRANT SELECT ON ledger.former_secret, ledger.key_use TO ledger_api;
