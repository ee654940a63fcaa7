-- The sealed log (contract 6): a Merkle tree over the events in the order of the log, and the
-- checkpoints that were signed of it. Leaf 0 is the first event; positions may skip, leaves do not.

SET LOCAL lock_timeout = '5s';

-- 256 hashes to a tile (C2SP tlog-tiles): of leaves at level 0, above that of full tiles below. Only
-- the last tile of a level grows, at its end; nothing else is ever changed.
CREATE TABLE ledger.tile (
    level smallint NOT NULL,
    number bigint NOT NULL,
    hashes bytea NOT NULL,
    first_position bigint,               -- of the event that its first leaf is of
    CONSTRAINT tile_pkey PRIMARY KEY (level, number),
    CONSTRAINT tile_first_position_unique UNIQUE (first_position),
    CONSTRAINT tile_of_whole_hashes
        CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
    CONSTRAINT tile_position_of_leaves CHECK ((level = 0) = (first_position IS NOT NULL))
);

CREATE TABLE ledger.checkpoint (
    size bigint PRIMARY KEY,
    position bigint NOT NULL,            -- of the event that the last leaf is of
    note text NOT NULL,                  -- as it was signed
    signed_at timestamptz NOT NULL,
    CONSTRAINT checkpoint_position_unique UNIQUE (position),
    CONSTRAINT checkpoint_of_leaves CHECK (size > 0)
);

-- The log's name and key, one row; and whether sealing has stopped, since what is here does not fit
-- what was signed before.
CREATE TABLE ledger.signer (
    is_only boolean PRIMARY KEY DEFAULT true,
    vkey text NOT NULL,                  -- name and public key (C2SP signed-note)
    secret bytea NOT NULL,               -- the private key, sealed under the master key
    stopped_at timestamptz,
    error text,
    CONSTRAINT signer_is_one CHECK (is_only),
    CONSTRAINT signer_stopped_with_error CHECK ((stopped_at IS NULL) = (error IS NULL))
);

GRANT SELECT ON ledger.tile, ledger.checkpoint TO ledger_api;
GRANT SELECT (vkey, stopped_at, error) ON ledger.signer TO ledger_api;

-- One event as it is stored, where the credential of the session's settings may see it (an empty
-- setting: everything). With its owner's right: the role that reads has none on the log itself.
CREATE FUNCTION ledger.stored_event(at bigint)
RETURNS TABLE (stream text, version bigint, topic text, state bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT e.originator_id, e.originator_version, e.topic, e.state
    FROM (
        SELECT *, convert_from(state, 'UTF8')::json AS told FROM ledger.ledger_events
        WHERE notification_id = at
        OFFSET 0
    ) AS e
    WHERE current_setting('ledger.organization_id', true) IN ('', e.told ->> 'organization_id')
      AND current_setting('ledger.workspace_id', true) IN ('', e.told ->> 'workspace_id')
$$;

REVOKE ALL ON FUNCTION ledger.stored_event(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.stored_event(bigint) TO ledger_api;
