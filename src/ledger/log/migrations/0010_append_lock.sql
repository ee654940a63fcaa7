-- What an append locks until its commit. Not the log itself: a vacuum or an analyze of that shares it
-- with nobody who locks it so, and on a large log takes minutes.

SET LOCAL lock_timeout = '5s';

-- No rows, so nothing to be vacuumed.
CREATE TABLE ledger.append_lock ();

CREATE OR REPLACE FUNCTION ledger.await_append() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    LOCK TABLE ledger.append_lock IN ROW SHARE MODE;
END $$;
