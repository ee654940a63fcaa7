-- The log by instant of recording: the position at which a question "as of" is answered. Unique,
-- since every event has an instant of its own, which rises with its position.

SET LOCAL lock_timeout = '5s';

CREATE UNIQUE INDEX ledger_events_recorded_at_unique ON ledger.ledger_events (recorded_at);

GRANT SELECT (recorded_at) ON ledger.ledger_events TO ledger_api;

-- Wait for the append in flight, if any: it may have been given an instant that has passed.
-- Appends hold the table's EXCLUSIVE lock, which this mode conflicts with; readers do not wait
-- for each other. With its owner's right: the role that reads has none on the table itself.
CREATE FUNCTION ledger.await_append() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    LOCK TABLE ledger.ledger_events IN ROW SHARE MODE;
END $$;

REVOKE ALL ON FUNCTION ledger.await_append() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.await_append() TO ledger_api;
