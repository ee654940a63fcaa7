-- The view of runs had a table of versions until its version 5. Since then the row of a run tells its
-- past too, and no rebuild would drop a table that the view does not have any more.

SET LOCAL lock_timeout = '5s';

DROP VIEW IF EXISTS ledger.run_version;

DO $$
DECLARE
    retired text;
BEGIN
    FOR retired IN
        SELECT relname FROM pg_class
        WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'
          AND relname ~ '^run_version_g[0-9]+$'
    LOOP
        EXECUTE format('DROP TABLE ledger.%I', retired);
    END LOOP;
END $$;
