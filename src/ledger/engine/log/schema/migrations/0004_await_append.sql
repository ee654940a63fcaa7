-- A session that awaits the append in flight holds the lock for that moment alone. A transaction
-- that stayed open would otherwise stop all appends: the role of reads could hold one.

SET LOCAL lock_timeout = '5s';

-- The block with EXCEPTION is a subtransaction: its end by an error releases its locks.
CREATE OR REPLACE FUNCTION ledger.await_append() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE ledger.append_lock IN ROW SHARE MODE;
    RAISE EXCEPTION 'the append in flight has ended' USING ERRCODE = 'LA001';
EXCEPTION
    WHEN SQLSTATE 'LA001' THEN NULL;
END $$;
