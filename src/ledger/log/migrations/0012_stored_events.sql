-- Stored events for the role that reads, many in one call: views keep the keys of an event alone,
-- and feeds, histories and the audit log are rendered from the event itself.

SET LOCAL lock_timeout = '5s';

DROP FUNCTION ledger.stored_event(bigint);

-- The stored events at these positions, as far as the session's tenant has them. The settings
-- ledger.organization_id and ledger.workspace_id name the tenant: an organization, and one of its
-- workspaces or * for all of them; or * and * for every tenant. A setting that is empty or missing
-- shows nothing.
-- The state of an event is JSON without blanks, which is compared as text: parsing it takes ten
-- times as long. The second format is an array that begins with the format and the tenant. The
-- first format is an object, with the names of the tenant side by side and the body at the end. No
-- sender can put these names into a string: there, a backslash precedes each quotation mark.
-- The function has its owner's right: the role that reads has none on the log itself. Its plan is
-- made once a session and must walk the index, even if it is made while the log is empty.
CREATE FUNCTION ledger.stored_events(positions bigint[])
RETURNS TABLE ("position" bigint, stream text, version bigint, topic text, state bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    organization text := current_setting('ledger.organization_id', true);
    workspace text := current_setting('ledger.workspace_id', true);
    array_start bytea := convert_to('[2,' || to_json(organization) || ','
        || CASE workspace WHEN '*' THEN '' ELSE to_json(workspace) || ',' END, 'UTF8');
    in_object bytea := convert_to('"organization_id":' || to_json(organization) || ','
        || CASE workspace WHEN '*' THEN '' ELSE '"workspace_id":' || to_json(workspace) || ',' END,
        'UTF8');
BEGIN
    RETURN QUERY
    SELECT e.notification_id, e.originator_id, e.originator_version, e.topic, e.state
    FROM ledger.ledger_events AS e
    WHERE e.notification_id = ANY (positions)
      AND CASE
          WHEN organization = '*' THEN workspace = '*'
          WHEN get_byte(e.state, 0) = ascii('[')
              THEN substring(e.state FROM 1 FOR octet_length(array_start)) = array_start
          ELSE position(in_object IN
              substring(e.state FROM 1 FOR position('"body":{'::bytea IN e.state))) > 0
      END;
END $$;

REVOKE ALL ON FUNCTION ledger.stored_events(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.stored_events(bigint[]) TO ledger_api;
