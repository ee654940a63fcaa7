-- The beat of the log: an instant that a writer notes each second, under the append lock. An event
-- that is recorded afterwards has a later instant. So a standby that has a beat has every event of
-- an earlier instant (contract, Several nodes).

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.listening
    ADD COLUMN beaten_at timestamptz NOT NULL DEFAULT '1970-01-01T00:00:00Z';

-- The last beat. Instants tell nothing of a tenant. The function has its owner's right, and shows
-- nothing in a session whose settings name no tenant.
CREATE FUNCTION ledger.beaten_at() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT l.beaten_at FROM ledger.listening AS l
            WHERE l.is_only AND current_setting('ledger.organization_id', true) <> '');
END $$;

-- The instant of the last event; on a standby that of the last beat if that is later: no further
-- event will be recorded at an instant before. (On the primary a reader can await the append in
-- flight instead.) Null in a session whose settings name no tenant.
CREATE FUNCTION ledger.known_until() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN greatest(
        (SELECT e.recorded_at FROM ledger.ledger_events AS e
         WHERE current_setting('ledger.organization_id', true) <> ''
         ORDER BY e.notification_id DESC LIMIT 1),
        CASE WHEN pg_is_in_recovery() THEN ledger.beaten_at() END);
END $$;

REVOKE ALL ON FUNCTION ledger.beaten_at() FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.known_until() FROM PUBLIC;
