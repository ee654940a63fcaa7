-- Stored events for the role that reads, many in one call: views keep the keys of an event alone,
-- and feeds, histories and the audit log are rendered from the event itself.

SET LOCAL lock_timeout = '5s';

DROP FUNCTION ledger.stored_event(bigint);

-- The stored events at these positions, as far as the session's tenant has them: the settings
-- ledger.organization_id and ledger.workspace_id each name an id, or with * any. A setting that is
-- empty or missing shows nothing. The state is a JSON object, or since its second format an array
-- that names the tenant in second and third place.
-- The function has its owner's right: the role that reads has none on the log itself. Its plan is
-- made once a session and must walk the index, even if it is made while the log is empty.
CREATE FUNCTION ledger.stored_events(positions bigint[])
RETURNS TABLE ("position" bigint, stream text, version bigint, topic text, state bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    organization text := current_setting('ledger.organization_id', true);
    workspace text := current_setting('ledger.workspace_id', true);
BEGIN
    RETURN QUERY
    SELECT e.notification_id, e.originator_id, e.originator_version, e.topic, e.state
    FROM ledger.ledger_events AS e
    WHERE e.notification_id = ANY (positions)
      AND (organization = '*' AND workspace = '*' OR EXISTS (
          SELECT
          FROM (SELECT convert_from(e.state, 'UTF8')::jsonb AS stored OFFSET 0) AS s
          CROSS JOIN LATERAL (
              SELECT jsonb_typeof(s.stored) = 'array' AS is_array OFFSET 0
          ) AS format
          WHERE organization IN ('*', CASE WHEN format.is_array THEN s.stored ->> 1
                                           ELSE s.stored ->> 'organization_id' END)
            AND workspace IN ('*', CASE WHEN format.is_array THEN s.stored ->> 2
                                        ELSE s.stored ->> 'workspace_id' END)
      ));
END $$;

REVOKE ALL ON FUNCTION ledger.stored_events(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.stored_events(bigint[]) TO ledger_api;
