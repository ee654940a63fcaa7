-- The external id of an open run, which the event of its line's closing repeats.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.open_run ADD COLUMN external_id text;
