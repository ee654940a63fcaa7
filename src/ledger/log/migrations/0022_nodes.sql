-- What the nodes of a ledger know of each other (contract, Several nodes).

SET LOCAL lock_timeout = '5s';

-- The nodes. Each writes its row anew every second.
CREATE TABLE ledger.node (
    node_id text PRIMARY KEY,                     -- of the data directory: an empty one is a new node
    version text NOT NULL,                        -- of the service
    role text NOT NULL,
    language integer NOT NULL DEFAULT 1,          -- which events the node understands
    started_at timestamptz NOT NULL,
    beaten_at timestamptz NOT NULL,               -- both by the clock of the database
    witness text                                  -- the newest checkpoint that the node has seen
);

-- The loops, and the session that leads each: that holds the loop's advisory lock. A session whose
-- process has not beaten for long is frozen, and is ended by a rival.
CREATE TABLE ledger.leader (
    loop text PRIMARY KEY,
    node_id text NOT NULL,
    process text NOT NULL,                        -- whose beats count, for all loops that it leads
    pid integer NOT NULL,                         -- of the session, as pg_stat_activity has it
    led_since timestamptz NOT NULL,
    beaten_at timestamptz NOT NULL                -- both by the clock of the database
);

-- The PostgreSQL that wrote the log last. Another one, or another timeline, may have lost events. So
-- may other tables: those of a dump that was restored.
CREATE TABLE ledger.lineage (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    system_identifier text NOT NULL,              -- empty: the user may not ask for it
    timeline bigint NOT NULL,
    tables text NOT NULL                          -- the OIDs of the database and of the log's table
);
