-- The column recorded_at, by which reads of the past select, is tied to the stored event. The role
-- that owns the database could otherwise move events in time, and no proof would show it.
-- Rows that exist are checked by the service, without a lock that appends would wait for.

SET LOCAL lock_timeout = '5s';

-- The second format is an array, whose sixth element is the instant in microseconds: the elements
-- before it are a number, ids and an instant, which have no commas. The first format is an object.
ALTER TABLE ledger.ledger_events ADD CONSTRAINT ledger_events_recorded_at_as_stored CHECK (
    coalesce(CASE
        WHEN octet_length(state) = 0 THEN false
        WHEN get_byte(state, 0) = ascii('[') THEN
            extract(epoch FROM recorded_at) * 1000000
                = split_part(encode(substring(state FROM 1 FOR 200), 'escape'), ',', 6)::numeric
        ELSE recorded_at = (convert_from(state, 'UTF8')::json ->> 'recorded_at')::timestamptz
    END, false)
) NOT VALID;

-- What the service found when it compared stored data with the log.
CREATE TABLE ledger.verification (
    name text PRIMARY KEY,
    verified_at timestamptz NOT NULL,
    differs boolean NOT NULL
);

GRANT SELECT ON ledger.verification TO ledger_api;
