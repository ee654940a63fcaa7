-- Origins of the sealed log: the names and keys under which it was signed, one after the other, and
-- what a node must know of signing (contract, Several nodes). The version before goes on serving:
-- ledger.signer keeps its one row, and ledger.checkpoint the checkpoints of the present origin.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.signer
    ADD COLUMN origin integer NOT NULL DEFAULT 1,           -- of the present key: 1, 2, 3 …
    ADD COLUMN shown_size bigint NOT NULL DEFAULT 0,        -- checkpoints up to this size are shown
    ADD COLUMN contradicts boolean NOT NULL DEFAULT false,  -- stopped until an operator adopts
    ADD COLUMN waits_for text,                              -- why no node signs; NULL: one may
    ADD COLUMN after text,                                  -- the last checkpoint of the origin before
    ADD COLUMN base_size bigint NOT NULL DEFAULT 0,         -- the leaves that the origin began with,
    ADD COLUMN base_position bigint NOT NULL DEFAULT 0,     -- and the position of the last of them
    ADD CONSTRAINT signer_contradicts_with_error CHECK (NOT contradicts OR stopped_at IS NOT NULL);

-- What was signed until now was shown at once.
UPDATE ledger.signer SET shown_size = COALESCE((SELECT max(size) FROM ledger.checkpoint), 0);

-- The origins before the present one. Their secret keys are gone.
CREATE TABLE ledger.former_origin (
    number integer PRIMARY KEY,
    vkey text NOT NULL,
    ended_at timestamptz NOT NULL,
    ended_by text NOT NULL,                -- who adopted the log as it was then, and why
    reason text NOT NULL,
    last_note text,                        -- the last checkpoint that was known of this origin
    kept_size bigint NOT NULL,             -- up to this size its checkpoints are of the present log
    CONSTRAINT former_origin_number_from_one CHECK (number >= 1)
);

-- The checkpoints of the origins before, as ledger.checkpoint had them.
CREATE TABLE ledger.former_checkpoint (
    origin integer NOT NULL,
    size bigint NOT NULL,
    position bigint NOT NULL,
    note text NOT NULL,
    number bigint NOT NULL,
    CONSTRAINT former_checkpoint_pkey PRIMARY KEY (origin, size)
);

-- The PostgreSQL on which the node has waited for the others' reports. A database that lost its
-- last transactions has the name of an earlier one here.
ALTER TABLE ledger.node ADD COLUMN lineage text;

-- Which PostgreSQL this is: the cluster, unless the user may not ask for it, and the timeline of its
-- log. Fails on a standby.
CREATE FUNCTION ledger.this_postgresql() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    cluster text;
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier INTO cluster FROM pg_control_system();
    END IF;
    RETURN concat_ws(' ', cluster, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8));
END
$$;

REVOKE ALL ON FUNCTION ledger.this_postgresql() FROM PUBLIC;

-- The last wall before two notes of an origin could contradict each other: whatever a process that
-- was frozen, or that is of the version before, still has in hand.
CREATE FUNCTION ledger.check_checkpoint() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    signer ledger.signer;
BEGIN
    SELECT * INTO signer FROM ledger.signer FOR SHARE;
    IF signer.contradicts THEN
        RAISE EXCEPTION 'the log contradicts a checkpoint that was signed';
    END IF;
    IF split_part(NEW.note, E'\n', 1) <> split_part(signer.vkey, '+', 1) THEN
        RAISE EXCEPTION 'the checkpoint is not of the present origin';
    END IF;
    IF NEW.size <= (SELECT max(size) FROM ledger.checkpoint) THEN
        RAISE EXCEPTION 'a checkpoint of this size, or of a greater one, exists';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER checkpoint_continues BEFORE INSERT ON ledger.checkpoint
    FOR EACH ROW EXECUTE FUNCTION ledger.check_checkpoint();
