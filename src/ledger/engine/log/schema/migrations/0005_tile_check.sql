-- The same condition without BETWEEN. PostgreSQL keeps BETWEEN as an AND within the AND, and a dump
-- loses that nesting: the constraint of a restored ledger would read otherwise than the code's.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.tile
    DROP CONSTRAINT tile_of_whole_hashes,
    ADD CONSTRAINT tile_of_whole_hashes CHECK (
        octet_length(hashes) >= 32 AND octet_length(hashes) <= 8192 AND octet_length(hashes) % 32 = 0
    );
