-- A delivery may be skipped: of an alert that was resolved before an attempt.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.delivery
    DROP CONSTRAINT delivery_status_known,
    ADD CONSTRAINT delivery_status_known
        CHECK (status IN ('pending', 'delivered', 'failed', 'skipped'));
