-- A signing key comes with its first checkpoint, and the last checkpoint is kept with the key, under
-- the master key (contract, Proof). The version before goes on serving: it opens the key as long as
-- a node of that version beats.

SET LOCAL lock_timeout = '5s';

-- Whether the node opens a key that has a checkpoint beside it.
ALTER TABLE ledger.node ADD COLUMN opens_marks boolean NOT NULL DEFAULT false;

-- The version before made a key at its start. One that has signed nothing is not missed.
DELETE FROM ledger.signer
WHERE NOT EXISTS (SELECT FROM ledger.checkpoint) AND NOT EXISTS (SELECT FROM ledger.former_origin);

-- Where a key is and no checkpoint, the checkpoints were removed. A row that only says so is no key.
CREATE FUNCTION ledger.check_signer() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NOT NEW.contradicts AND NOT EXISTS (SELECT FROM ledger.checkpoint) THEN
        RAISE EXCEPTION 'a signing key comes with its first checkpoint';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER signer_has_signed AFTER INSERT OR UPDATE OF vkey ON ledger.signer
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger.check_signer();
