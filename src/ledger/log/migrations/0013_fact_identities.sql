-- The identities that events have, in place of the tables of facts and of check-ins. What these
-- told besides, the event itself tells: its stream, and the digest of the fact's content.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.identity (
    digest uuid NOT NULL,         -- the first 16 bytes of SHA-256 (domain/identity.py)
    position bigint NOT NULL      -- of the event that has the identity
);

-- The digest of an identity: NUL divides its parts.
CREATE FUNCTION ledger.identity_digest(organization_id text, source text, name bytea) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(substr(sha256(
        convert_to(organization_id, 'UTF8') || '\x00' || convert_to(source, 'UTF8') || '\x00' || name
    ), 1, 16), 'hex')::uuid
$$;

-- The facts and failed deliveries recorded so far.
INSERT INTO ledger.identity (digest, position)
SELECT ledger.identity_digest(organization_id, source, convert_to(fact_id, 'UTF8')), position
FROM ledger.fact;

-- The voids, each by the check-in that its event names: source, NUL and fact id. Only the streams
-- of lines that have a void are read.
INSERT INTO ledger.identity (digest, position)
SELECT ledger.identity_digest(
        v.told ->> 'organization_id', '',
        convert_to(v.told -> 'fact' ->> 'source', 'UTF8') || '\x00'
            || convert_to(v.told -> 'body' ->> 'fact_id', 'UTF8')
    ), v.position
FROM (SELECT DISTINCT line_id FROM ledger.check_in WHERE voided) AS line
CROSS JOIN LATERAL (
    SELECT notification_id AS position, convert_from(state, 'UTF8')::json AS told
    FROM ledger.ledger_events
    WHERE originator_id = line.line_id AND topic = 'execution.check_in_voided/1'
    OFFSET 0
) AS v;

DROP FUNCTION ledger.identity_digest;
DROP TABLE ledger.fact, ledger.check_in;

-- The index is built of sorted rows, which is faster and more compact than row by row.
ALTER TABLE ledger.identity ADD CONSTRAINT identity_pkey PRIMARY KEY (digest);
