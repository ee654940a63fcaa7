-- Where each projection stands. Its tables are its own (projections/*.sql); a rebuild fills the
-- next generation beside the live one.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.projection (
    name text PRIMARY KEY,
    version integer NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stopped_at timestamptz,
    error text,
    CONSTRAINT projection_position_from_zero CHECK (position >= 0),
    CONSTRAINT projection_stopped_with_error CHECK ((stopped_at IS NULL) = (error IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

GRANT SELECT ON ledger.projection TO ledger_api;
-- Positions alone, so that a reader can tell how far a view is behind.
GRANT SELECT (notification_id) ON ledger.ledger_events TO ledger_api;
