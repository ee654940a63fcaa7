-- What the API's role reads of tables that it has no right on, each as narrow as its use. The role
-- logs in by itself, owns nothing, and sees rows by policies (ledger/log/walls.py has the list).
-- Each function has its owner's right, and each shows nothing in a session whose settings name no
-- tenant. Their plans are made once a session and must walk an index, even if they are made while a
-- table is empty.

SET LOCAL lock_timeout = '5s';

-- Where the log ends, or null if it is empty. Positions and instants tell nothing of a tenant.
CREATE FUNCTION ledger.log_end() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE current_setting('ledger.organization_id', true) <> ''
            ORDER BY notification_id DESC LIMIT 1);
END $$;

-- The last position that was recorded by an instant, or null.
CREATE FUNCTION ledger.position_by(instant timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE recorded_at <= instant AND current_setting('ledger.organization_id', true) <> ''
            ORDER BY recorded_at DESC LIMIT 1);
END $$;

-- The first position that was recorded at an instant or later, or null.
CREATE FUNCTION ledger.position_from(instant timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE recorded_at >= instant AND current_setting('ledger.organization_id', true) <> ''
            ORDER BY recorded_at LIMIT 1);
END $$;

-- When the event at a position was recorded, or null.
CREATE FUNCTION ledger.recorded_at(at bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT e.recorded_at FROM ledger.ledger_events AS e
            WHERE e.notification_id = at AND current_setting('ledger.organization_id', true) <> '');
END $$;

-- The number of events from a position to another, which is not counted itself (null: to the end of
-- the log), or ``most`` if there are more.
CREATE FUNCTION ledger.events_between(first bigint, beyond bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT count(*) FROM (
        SELECT FROM ledger.ledger_events
        WHERE notification_id >= first
          AND notification_id < COALESCE(beyond, 9223372036854775807)
          AND current_setting('ledger.organization_id', true) <> ''
        LIMIT most) AS counted);
END $$;

-- Those of the given secrets that pass at an instant, by their hashes, with their keys, and the
-- instant at which each of them ends: its key's, or that of its own if a rotation has replaced it.
-- (least() ignores NULL.) The tenant is not known before: this is asked for every tenant, and a hash
-- is 32 bytes that only the key's holder can name.
CREATE FUNCTION ledger.passing_keys(hashes bytea[], at timestamptz)
RETURNS TABLE (secret_hash bytea, key_id text, organization_id text, workspace_id text,
               permissions text[], ends_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT s.secret_hash, k.key_id, k.organization_id, k.workspace_id, k.permissions,
        least(k.expires_at, s.valid_until)
    FROM (
        SELECT c.secret_hash, c.key_id, NULL::timestamptz AS valid_until
        FROM ledger.api_key AS c WHERE c.secret_hash = ANY (hashes)
        UNION ALL
        SELECT f.secret_hash, f.key_id, f.valid_until
        FROM ledger.former_secret AS f WHERE f.secret_hash = ANY (hashes)
    ) AS s JOIN ledger.api_key AS k ON k.key_id = s.key_id
    WHERE k.revoked_at IS NULL AND coalesce(least(k.expires_at, s.valid_until) > at, true)
      AND current_setting('ledger.organization_id', true) = '*'
      AND current_setting('ledger.workspace_id', true) = '*';
END $$;

-- Whether the session's tenant has a line, which the line's first event tells. A statement asks this
-- before it walks along a line's events: it would search all events of a neighbour's line for the
-- first that is not hidden.
CREATE FUNCTION ledger.sees_line(line text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    organization text := current_setting('ledger.organization_id', true);
    workspace text := current_setting('ledger.workspace_id', true);
BEGIN
    RETURN EXISTS (
        SELECT FROM (
            SELECT e.organization_id, e.workspace_id FROM ledger.event AS e
            WHERE hashtextextended(e.line_id, 0) = hashtextextended(line, 0) AND e.line_id = line
            ORDER BY hashtextextended(e.line_id, 0), e.position LIMIT 1
        ) AS first
        WHERE CASE WHEN workspace = '*' THEN organization IN ('*', first.organization_id)
              ELSE organization = first.organization_id AND workspace = first.workspace_id END
    );
END $$;

-- Whether the session's tenant has an endpoint: for the policies of its deliveries. With the right
-- of who asks, whom the policy of the view binds. No policy may name a view, which every rebuild
-- replaces.
CREATE FUNCTION ledger.sees_endpoint(id text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM ledger.webhook AS w WHERE w.endpoint_id = id);
END $$;
