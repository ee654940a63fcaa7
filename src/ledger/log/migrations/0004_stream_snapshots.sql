-- Where the folds of long streams stood: the latest snapshot of each, so that a process that meets
-- such a stream reads a few hundred events instead of all. Derivable: rows may go at any time.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.snapshot (
    stream text PRIMARY KEY,
    version bigint NOT NULL,
    fold integer NOT NULL,        -- the number of the fold that made it; no other one reads it
    state bytea NOT NULL,
    -- One beyond its stream would make the next event leave a gap in the versions.
    CONSTRAINT snapshot_within_its_stream FOREIGN KEY (stream, version)
        REFERENCES ledger.ledger_events (originator_id, originator_version)
);
