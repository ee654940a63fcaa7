-- What a delivery's latest attempt was sent to, and deliveries that are sent again though delivered.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.delivery
    ADD COLUMN url text,                             -- of the latest attempt; null before it
    ADD COLUMN again boolean NOT NULL DEFAULT false; -- a success before its round does not end it
