-- An open run has an attempt and the run before it, which the event of a closing repeats.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.open_run
    ADD COLUMN attempt integer NOT NULL DEFAULT 1,
    ADD COLUMN retry_of text;
