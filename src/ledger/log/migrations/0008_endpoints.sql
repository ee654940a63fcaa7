-- The webhook endpoints that are not deleted: an organization may have so many and no more. Written
-- in the append transaction, read under its lock, and derivable from the log at any time.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.endpoint (
    organization_id text NOT NULL,
    endpoint_id text NOT NULL,
    CONSTRAINT endpoint_pkey PRIMARY KEY (organization_id, endpoint_id)
);

-- No append is in flight while the log is read: what it sets up would be missed.
LOCK TABLE ledger.ledger_events IN EXCLUSIVE MODE;

-- Those there are. The counter names all that ever were, so each stream's first and last event are
-- looked up by key (hence LIMIT), and the log is not walked; nothing follows a deletion.
INSERT INTO ledger.endpoint (organization_id, endpoint_id)
SELECT convert_from(first.state, 'UTF8')::jsonb ->> 'organization_id', id.endpoint_id
FROM ledger.id_counter AS counter
CROSS JOIN LATERAL generate_series(1, counter.last) AS number
CROSS JOIN LATERAL (
    SELECT format('WHK-%s-%s', lpad((counter.year % 100)::text, 2, '0'),
                  lpad(number::text, greatest(6, length(number::text)), '0')) AS endpoint_id
) AS id
CROSS JOIN LATERAL (
    SELECT state FROM ledger.ledger_events
    WHERE originator_id = id.endpoint_id ORDER BY originator_version LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT topic FROM ledger.ledger_events
    WHERE originator_id = id.endpoint_id ORDER BY originator_version DESC LIMIT 1
) AS last
WHERE counter.prefix = 'WHK' AND last.topic NOT LIKE 'webhook.deleted/%';
