-- The ledger as of 0.1.0: the log; what decisions need beside it; the views' tracking; webhooks; the
-- sealed log; the nodes; and the functions by which reads reach what they have no right on.
-- Columns that hold one row of the whole ledger are named is_only.

SET LOCAL lock_timeout = '5s';

-- The log -----------------------------------------------------------------------------------------

-- The table itself is the library's (eventsourcing's application recorder). This adds the time of
-- recording, which orders as-of questions, and forbids what must never happen to the log.
-- The column recorded_at is tied to the stored event: the role that owns the database could
-- otherwise move events in time, and no proof would show it. A stored event is an array, whose sixth
-- element is the instant in microseconds: the elements before it are a number, ids and an instant,
-- which have no commas.
ALTER TABLE ledger.ledger_events
    ALTER COLUMN topic SET NOT NULL,
    ALTER COLUMN state SET NOT NULL,
    ADD COLUMN recorded_at timestamptz NOT NULL,
    ADD CONSTRAINT ledger_events_version_from_one CHECK (originator_version >= 1),
    ADD CONSTRAINT ledger_events_recorded_at_as_stored CHECK (
        extract(epoch FROM recorded_at) * 1000000
            = split_part(encode(substring(state FROM 1 FOR 200), 'escape'), ',', 6)::numeric
    );

CREATE FUNCTION ledger.forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is forbidden', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'raise_exception', CONSTRAINT = 'ledger_events_append_only';
END $$;

CREATE TRIGGER ledger_events_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.ledger_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.forbid_change();

-- The log by instant of recording: the position at which a question "as of" is answered. Unique,
-- since every event has an instant of its own, which rises with its position.
CREATE UNIQUE INDEX ledger_events_recorded_at_unique ON ledger.ledger_events (recorded_at);

-- What an append locks until its commit. Not the log itself: a vacuum or an analyze of that shares it
-- with nobody who locks it so, and on a large log takes minutes. No rows, so nothing to be vacuumed.
CREATE TABLE ledger.append_lock ();

-- Wait for the append in flight, if any: it may have been given an instant that has passed. Appends
-- hold the table's EXCLUSIVE lock, which this mode conflicts with; readers do not wait for each other.
-- A session holds the lock for that moment alone: the block with EXCEPTION is a subtransaction, whose
-- end by an error releases its locks. A transaction that stayed open would otherwise stop all appends,
-- and the role of reads could hold one.
CREATE FUNCTION ledger.await_append() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE ledger.append_lock IN ROW SHARE MODE;
    RAISE EXCEPTION 'the append in flight has ended' USING ERRCODE = 'LA001';
EXCEPTION
    WHEN SQLSTATE 'LA001' THEN NULL;
END $$;

-- What a node writes each second while nobody else writes, to find out whether appends succeed.
CREATE TABLE ledger.append_probe (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT append_probe_one_row CHECK (is_only),
    written_at timestamptz NOT NULL
);

INSERT INTO ledger.append_probe (written_at) VALUES (clock_timestamp());

-- Where the folds of long streams stood: the latest snapshot of each, so that a process that meets
-- such a stream reads a few hundred events instead of all. Derivable: rows may go at any time.
CREATE TABLE ledger.snapshot (
    stream text PRIMARY KEY,
    version bigint NOT NULL,
    fold integer NOT NULL,        -- the number of the fold that made it; no other one reads it
    state bytea NOT NULL,
    -- One beyond its stream would make the next event leave a gap in the versions.
    CONSTRAINT snapshot_within_its_stream FOREIGN KEY (stream, version)
        REFERENCES ledger.ledger_events (originator_id, originator_version)
);

-- What every process must agree on, such as the master key's fingerprint.
CREATE TABLE ledger.setting (
    name text PRIMARY KEY,
    value text NOT NULL
);

-- Decisions ---------------------------------------------------------------------------------------

-- What a decision needs and a line's or run's own stream cannot tell. Written in the append
-- transaction, read under its lock, and, unless a comment says otherwise, derivable from the log at
-- any time.

-- The last id issued, per prefix and UTC year of recording. Supplied ids never move it.
CREATE TABLE ledger.id_counter (
    prefix text NOT NULL,
    year integer NOT NULL,
    last bigint NOT NULL,
    CONSTRAINT id_counter_pkey PRIMARY KEY (prefix, year)
);

-- The identities that events have: a fact sent again finds its event here, and a void its check-in.
CREATE TABLE ledger.identity (
    digest uuid NOT NULL,         -- the first 16 bytes of SHA-256 (engine/values/recorded.py)
    position bigint NOT NULL,     -- of the event that has the identity
    CONSTRAINT identity_pkey PRIMARY KEY (digest)
);

-- RUN ids that name an execution record: they are taken, and are no runs.
CREATE TABLE ledger.execution_record (
    execution_id text PRIMARY KEY,
    line_id text NOT NULL,
    organization_id text NOT NULL
);

-- Runs that are pending or running. A closing takes from here what its event says of them.
CREATE TABLE ledger.open_run (
    line_id text NOT NULL,
    run_id text NOT NULL,
    version bigint NOT NULL,
    started_at timestamptz,
    external_id text,
    attempt integer NOT NULL DEFAULT 1,
    retry_of text,                -- the run before it
    CONSTRAINT open_run_pkey PRIMARY KEY (line_id, run_id)
);

-- The idle decision: runs move these without moving the line's own version.
CREATE TABLE ledger.line_activity (
    line_id text PRIMARY KEY,
    last_activity_at timestamptz NOT NULL,
    open_runs integer NOT NULL,
    CONSTRAINT line_activity_open_runs_from_zero CHECK (open_runs >= 0)
) WITH (fillfactor = 70);

-- The leases of open runs: a run of which nothing arrives for so long fails. Heartbeats are in no
-- log. A heartbeat moves heard_at and ends_at, which no index has: so its update stays within the
-- page (HOT). The indexed due_at is when the lease is looked at next, never after its end.
CREATE TABLE ledger.lease (
    run_id text PRIMARY KEY,
    seconds integer NOT NULL,
    heard_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    organization_id text NOT NULL,
    CONSTRAINT lease_looked_at_by_its_end CHECK (due_at <= ends_at)
) WITH (fillfactor = 70);
CREATE INDEX lease_due_at_idx ON ledger.lease (due_at);

-- Organizations take turns when many leases end at one moment.
CREATE INDEX lease_organization_id_due_at_idx ON ledger.lease (organization_id, due_at);

-- When a node of the service was last able to take heartbeats: time without such a node does not
-- count in any lease. And the beat of the log: an instant that a writer notes each second, under the
-- append lock. An event that is recorded afterwards has a later instant. So a standby that has a beat
-- has every event of an earlier instant (contract, Several nodes).
CREATE TABLE ledger.listening (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT listening_one_row CHECK (is_only),
    listened_at timestamptz NOT NULL,
    beaten_at timestamptz NOT NULL DEFAULT '1970-01-01T00:00:00Z'
);

INSERT INTO ledger.listening (listened_at) VALUES ('1970-01-01T00:00:00Z');

-- One wrapped data key a run. Not derivable: destroying a row is what erases a run's payloads.
CREATE TABLE ledger.run_key (
    run_id text PRIMARY KEY,
    organization_id text NOT NULL,
    wrapped bytea,
    destroyed_at timestamptz,
    CONSTRAINT run_key_wrapped_or_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);

-- Credentials. In the append transaction, so that a new key works at once on every worker.
CREATE TABLE ledger.api_key (
    key_id text PRIMARY KEY,
    secret_hash bytea NOT NULL CONSTRAINT api_key_secret_hash_unique UNIQUE,
    name text,
    organization_id text,
    workspace_id text,
    permissions text[] NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    expires_at timestamptz,       -- from this instant on the key is refused
    prefix text NOT NULL,         -- the first characters of the present token
    created_by_type text NOT NULL,
    created_by_id text NOT NULL
);

-- Lists of keys, newest first: of an organization, and of all.
CREATE INDEX api_key_of_organization ON ledger.api_key (organization_id, created_at);
CREATE INDEX api_key_by_creation ON ledger.api_key (created_at);

-- Secrets that a rotation has replaced.
CREATE TABLE ledger.former_secret (
    secret_hash bytea PRIMARY KEY,
    key_id text NOT NULL,
    organization_id text,
    workspace_id text,
    valid_until timestamptz NOT NULL     -- from this instant on the secret is refused
);
CREATE INDEX former_secret_of_key ON ledger.former_secret (key_id);

-- When each key was last used. Not in the log: workers write it from time to time.
CREATE TABLE ledger.key_use (
    key_id text PRIMARY KEY,
    organization_id text,
    workspace_id text,
    used_at timestamptz NOT NULL
) WITH (fillfactor = 70);

-- The webhook endpoints that are not deleted: an organization may have so many and no more.
CREATE TABLE ledger.endpoint (
    organization_id text NOT NULL,
    endpoint_id text NOT NULL,
    CONSTRAINT endpoint_pkey PRIMARY KEY (organization_id, endpoint_id)
);

-- The watches that are not deleted: an organization may have so many and no more.
CREATE TABLE ledger.organization_watch (
    organization_id text NOT NULL,
    watch_id text NOT NULL,
    PRIMARY KEY (organization_id, watch_id)
);

-- The outcome of a command that was sent under an Idempotency-Key. Kept for 24 hours.
CREATE TABLE ledger.idempotency (
    credential text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,   -- SHA-256 of the request
    outcome bytea NOT NULL,       -- JSON, encrypted: it may show a secret
    recorded_at timestamptz NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (credential, path, key)
);

-- The old ones are dropped.
CREATE INDEX idempotency_recorded_at ON ledger.idempotency (recorded_at);

-- Refusals beyond those that are recorded singly, until an event says how many they were: so
-- refusals cannot fill the disk.
CREATE TABLE ledger.refusals_omitted (
    credential text PRIMARY KEY,
    organization_id text,
    workspace_id text,
    since timestamptz NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT refusals_omitted_count_from_one CHECK (count >= 1)
) WITH (fillfactor = 50);

-- Beside the log ----------------------------------------------------------------------------------

-- What no event tells, or only by its hash.

-- The documents of statements. Each is stored before its event, which has its hash; one without an
-- event is removed within a day.
CREATE TABLE ledger.statement_document (
    document_sha256 bytea PRIMARY KEY
        CONSTRAINT statement_document_hash_of_32_bytes CHECK (octet_length(document_sha256) = 32),
    organization_id text NOT NULL,
    workspace_id text,                -- null: of the whole organization
    document bytea NOT NULL,
    total text NOT NULL,              -- JSON: the document's total, for lists
    stored_at timestamptz NOT NULL
);

CREATE INDEX statement_document_stored_at_idx ON ledger.statement_document (stored_at);

CREATE TRIGGER statement_document_never_changes
    BEFORE UPDATE ON ledger.statement_document
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.forbid_change();

-- Spans that others need: by them a run finds its parent, and the tokens of the spans below it.
CREATE TABLE ledger.span (
    organization_id text NOT NULL,
    trace_id bytea NOT NULL
        CONSTRAINT span_trace_id_of_16_bytes CHECK (octet_length(trace_id) = 16),
    span_id bytea NOT NULL
        CONSTRAINT span_span_id_of_8_bytes CHECK (octet_length(span_id) = 8),
    parent_id bytea,                -- null: the span is a root
    workspace_id text NOT NULL,     -- of the credential that sent the span; '': all workspaces
    source text,                    -- of a run: with the ids its name; null: the span is no run
    model text,
    input bigint,                   -- null: the span used no tokens
    output bigint,
    cache_read bigint,
    cache_write bigint,
    reasoning bigint,
    response_id text,               -- of the model's answer, which two spans may tell
    number bigint NOT NULL,         -- rises in an organization: the oldest leave first
    arrived_at timestamptz NOT NULL,
    PRIMARY KEY (span_id, trace_id, organization_id, workspace_id)
);

-- No two indexes serve the same look-up: statements are planned while the table is empty, and then
-- all indexes that can serve one seem to be alike.
CREATE INDEX span_parent_id_idx ON ledger.span (parent_id, trace_id, organization_id);
CREATE INDEX span_number_idx ON ledger.span (hashtext(organization_id), number);
CREATE INDEX span_arrived_at_idx ON ledger.span USING brin (arrived_at);

-- Sessions of people at the pages, and the names of those who come by the identity provider. The log
-- has who signed in, where, and how the session ended.
CREATE TABLE ledger.session (
    session_id text PRIMARY KEY,
    secret_hash bytea NOT NULL CONSTRAINT session_secret_hash_unique UNIQUE
        CONSTRAINT session_secret_hash_of_32_bytes CHECK (octet_length(secret_hash) = 32),
    by text NOT NULL CONSTRAINT session_by_known CHECK (by IN ('provider', 'token')),
    issuer text,                    -- null: the person signed in with a token
    sub text NOT NULL,              -- the provider's name of the person, or the id of the key
    sid text,                       -- the provider's name of its own session
    organization_id text,           -- the tenant that is chosen; null with permissions: all
    workspace_id text,
    permissions text[] NOT NULL,    -- there; empty: no tenant is chosen yet
    claims text NOT NULL,           -- JSON: the values by which grants are judged
    kept bytea NOT NULL,            -- sealed: the token, or what the provider gave
    signed_at timestamptz NOT NULL, -- by the provider's clock
    checked_at timestamptz NOT NULL, -- when the provider gave the claims
    asked_at timestamptz NOT NULL,  -- when a node last began to ask for them anew
    begun_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    browser text NOT NULL,
    network text NOT NULL,
    CONSTRAINT session_issuer_of_provider CHECK ((by = 'provider') = (issuer IS NOT NULL))
);

CREATE INDEX session_of_person ON ledger.session (sub, begun_at);
CREATE INDEX session_of_provider ON ledger.session (sid) WHERE sid IS NOT NULL;
CREATE INDEX session_of_organization ON ledger.session (organization_id, begun_at);
CREATE INDEX session_by_beginning ON ledger.session (begun_at);
CREATE INDEX session_by_end ON ledger.session (ends_at);

CREATE TABLE ledger.person (
    sub text PRIMARY KEY,
    name text,
    email text,
    seen_at timestamptz NOT NULL,   -- the latest sign-in
    organizations text[] NOT NULL   -- that the person has entered: theirs are shown the names
);

-- Views -------------------------------------------------------------------------------------------

-- Where each projection stands. Its tables are its own (projections/); a rebuild fills the next
-- generation beside the live one.
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

-- Webhooks ----------------------------------------------------------------------------------------

-- What became of webhooks, outside: no log tells it, so these tables are no view. Which events an
-- endpoint gets, and their numbers, is the view's business (projections/webhooks).

-- A delivery that was begun. The dispatcher alone writes here, on the connection that holds its
-- lock; what it has in hand is in its memory, and in due time here again should it die.
CREATE TABLE ledger.delivery (
    endpoint_id text NOT NULL,
    position bigint NOT NULL,                -- of the event
    sequence bigint NOT NULL,                -- 0: a test
    status text NOT NULL DEFAULT 'pending',
    round bigint NOT NULL DEFAULT 0,         -- position of the recovery that began it; at first 0
    tried integer NOT NULL DEFAULT 0,        -- failed attempts of this round
    attempts text[] NOT NULL DEFAULT '{}',   -- JSON, the latest last
    due_at timestamptz,                      -- when it is tried, or given up, next
    url text,                                -- of the latest attempt; null before it
    again boolean NOT NULL DEFAULT false,    -- a success before its round does not end it
    CONSTRAINT delivery_pkey PRIMARY KEY (endpoint_id, position),
    CONSTRAINT delivery_status_known          -- skipped: an alert was resolved before an attempt
        CHECK (status IN ('pending', 'delivered', 'failed', 'skipped')),
    CONSTRAINT delivery_pending_is_due CHECK ((status = 'pending') = (due_at IS NOT NULL)),
    CONSTRAINT delivery_numbers_from_zero CHECK (sequence >= 0 AND round >= 0 AND tried >= 0)
) WITH (fillfactor = 70);

-- What to try next, and what a recovery has to look at.
CREATE INDEX delivery_due ON ledger.delivery (endpoint_id, due_at) WHERE status = 'pending';
CREATE INDEX delivery_failed ON ledger.delivery (endpoint_id, position) WHERE status = 'failed';

-- How far the dispatcher is with each endpoint.
CREATE TABLE ledger.dispatch (
    endpoint_id text PRIMARY KEY,
    planned bigint NOT NULL DEFAULT 0,       -- events up to this position have become deliveries
    heeded bigint NOT NULL DEFAULT 0,        -- tests and recoveries up to this one were heeded
    failing_since timestamptz,               -- the first failure since the last success
    CONSTRAINT dispatch_positions_from_zero CHECK (planned >= 0 AND heeded >= 0)
) WITH (fillfactor = 50);

-- Watches -----------------------------------------------------------------------------------------

-- What the loop of watches knows of lines.

-- When a watch next looks at a line: the earliest instant at which something becomes due there, for
-- all watches together. A line for which nothing is or becomes due has no row. The rows follow from
-- the log: without them the loop looks at all lines anew.
CREATE TABLE ledger.watch_due (
    line_id text PRIMARY KEY,
    organization_id text NOT NULL,
    due_at timestamptz NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX watch_due_due_at_idx ON ledger.watch_due (due_at);

-- How far the loop has looked: at the changes of the log, and through the lines of an organization
-- for the revisions of its watches.
CREATE TABLE ledger.watch_look (
    organization_id text PRIMARY KEY,  -- '': of all, for changes
    position bigint NOT NULL,          -- looked at, the revisions up to it included
    begun bigint NOT NULL,             -- the position of the look that is under way, else the same
    after_key bigint NOT NULL          -- the record id up to which that look has come
);

-- How many alerts of a watch wait for room; a watch without waiting ones has no row.
CREATE TABLE ledger.watch_overflow (
    watch_id text PRIMARY KEY,
    organization_id text NOT NULL,
    waiting int NOT NULL
);

-- The sealed log ----------------------------------------------------------------------------------

-- A Merkle tree over the events in the order of the log, and the checkpoints that were signed of it
-- (contract, Proof). Leaf 0 is the first event; positions may skip, leaves do not.

-- 256 hashes to a tile (C2SP tlog-tiles): of leaves at level 0, above that of full tiles below. Only
-- the last tile of a level grows, at its end; nothing else is ever changed.
CREATE TABLE ledger.tile (
    level smallint NOT NULL,
    number bigint NOT NULL,
    hashes bytea NOT NULL,
    first_position bigint,               -- of the event that its first leaf is of
    CONSTRAINT tile_pkey PRIMARY KEY (level, number),
    CONSTRAINT tile_first_position_unique UNIQUE (first_position),
    -- Without BETWEEN: PostgreSQL keeps that as an AND within the AND, and a dump loses the nesting, so
    -- the constraint of a restored ledger would read otherwise than the code's.
    CONSTRAINT tile_of_whole_hashes CHECK (
        octet_length(hashes) >= 32 AND octet_length(hashes) <= 8192 AND octet_length(hashes) % 32 = 0
    ),
    CONSTRAINT tile_position_of_leaves CHECK ((level = 0) = (first_position IS NOT NULL))
);

-- The checkpoints of the present origin. They are counted, so that a missing one leaves a gap.
CREATE TABLE ledger.checkpoint (
    size bigint PRIMARY KEY,
    position bigint NOT NULL,            -- of the event that the last leaf is of
    note text NOT NULL,                  -- as it was signed
    number bigint NOT NULL,
    CONSTRAINT checkpoint_position_unique UNIQUE (position),
    CONSTRAINT checkpoint_of_leaves CHECK (size > 0),
    CONSTRAINT checkpoint_number_unique UNIQUE (number),
    CONSTRAINT checkpoint_number_from_one CHECK (number >= 1)
);

-- The log's name and key; whether sealing has stopped, since what is here does not fit what was
-- signed before; and what a node must know of signing (contract, Several nodes).
CREATE TABLE ledger.signer (
    is_only boolean PRIMARY KEY DEFAULT true,
    vkey text NOT NULL,                           -- name and public key (C2SP signed-note)
    secret bytea NOT NULL,                        -- the private key, sealed under the master key
    stopped_at timestamptz,
    error text,
    origin integer NOT NULL DEFAULT 1,            -- of the present key: 1, 2, 3 …
    shown_size bigint NOT NULL DEFAULT 0,         -- checkpoints up to this size are shown
    contradicts boolean NOT NULL DEFAULT false,   -- stopped until an operator adopts
    waits_for text,                               -- why no node signs; NULL: one may
    after text,                                   -- the last checkpoint of the origin before
    base_size bigint NOT NULL DEFAULT 0,          -- the leaves that the origin began with,
    base_position bigint NOT NULL DEFAULT 0,      -- and the position of the last of them
    CONSTRAINT signer_is_one CHECK (is_only),
    CONSTRAINT signer_stopped_with_error CHECK ((stopped_at IS NULL) = (error IS NULL)),
    CONSTRAINT signer_contradicts_with_error CHECK (NOT contradicts OR stopped_at IS NOT NULL)
);

-- The origins before the present one. Their secret keys are gone.
CREATE TABLE ledger.former_origin (
    number integer PRIMARY KEY,
    vkey text NOT NULL,
    ended_at timestamptz NOT NULL,
    ended_by text NOT NULL,                -- who adopted the log as it was then, and why
    reason text NOT NULL,
    last_note text,                        -- the last checkpoint that was known of this origin
    kept_size bigint NOT NULL,             -- up to this size its checkpoints are of the present log
    CONSTRAINT former_origin_number_from_one CHECK (number >= 1)
);

-- The checkpoints of the origins before, as ledger.checkpoint had them.
CREATE TABLE ledger.former_checkpoint (
    origin integer NOT NULL,
    size bigint NOT NULL,
    position bigint NOT NULL,
    note text NOT NULL,
    number bigint NOT NULL,
    CONSTRAINT former_checkpoint_pkey PRIMARY KEY (origin, size)
);

-- The last wall before two notes of an origin could contradict each other: whatever a process that
-- was frozen still has in hand.
CREATE FUNCTION ledger.check_checkpoint() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    signer ledger.signer;
BEGIN
    SELECT * INTO signer FROM ledger.signer FOR SHARE;
    IF signer.contradicts THEN
        RAISE EXCEPTION 'the log contradicts a checkpoint that was signed';
    END IF;
    IF split_part(NEW.note, E'\n', 1) <> split_part(signer.vkey, '+', 1) THEN
        RAISE EXCEPTION 'the checkpoint is not of the present origin';
    END IF;
    IF NEW.size <= (SELECT max(size) FROM ledger.checkpoint) THEN
        RAISE EXCEPTION 'a checkpoint of this size, or of a greater one, exists';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER checkpoint_continues BEFORE INSERT ON ledger.checkpoint
    FOR EACH ROW EXECUTE FUNCTION ledger.check_checkpoint();

-- A signing key comes with its first checkpoint (contract, Proof). Where a key is and no checkpoint,
-- the checkpoints were removed. A row that only says so is no key.
CREATE FUNCTION ledger.check_signer() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NOT NEW.contradicts AND NOT EXISTS (SELECT FROM ledger.checkpoint) THEN
        RAISE EXCEPTION 'a signing key comes with its first checkpoint';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER signer_has_signed AFTER INSERT OR UPDATE OF vkey ON ledger.signer
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger.check_signer();

-- What the comparisons of stored data with the log found last: a row for each part that is compared
-- on its own. A later comparison of the same part replaces the row.
CREATE TABLE ledger.verification (
    part text PRIMARY KEY,                        -- features/proof/tables.py names the parts
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    first bigint NOT NULL,                        -- positions of the events that it covers;
    last bigint NOT NULL,                         -- both 0 if there is none
    compared bigint NOT NULL,                     -- events, or rows of the tables beside the log
    differences bigint NOT NULL,
    named jsonb NOT NULL,                         -- the first of them, as {table, key, column}
    CONSTRAINT verification_differences_from_zero CHECK (differences >= 0)
);

-- Nodes -------------------------------------------------------------------------------------------

-- What the nodes of a ledger know of each other (contract, Several nodes). Instants are by the clock
-- of the database.

-- The nodes. Each writes its row anew every second.
CREATE TABLE ledger.node (
    node_id text PRIMARY KEY,                     -- of the data directory: an empty one is a new node
    version text NOT NULL,                        -- of the service
    role text NOT NULL,
    language integer NOT NULL DEFAULT 1,          -- which events the node understands
    started_at timestamptz NOT NULL,
    beaten_at timestamptz NOT NULL,
    witness text,                                 -- the newest checkpoint that the node has seen
    -- The PostgreSQL on which the node has waited for the others' reports. A database that lost its
    -- last transactions has the name of an earlier one here.
    lineage text
);

-- The loops, and the session that leads each: that holds the loop's advisory lock. A session whose
-- process has not beaten for long is frozen, and is ended by a rival.
CREATE TABLE ledger.leader (
    loop text PRIMARY KEY,
    node_id text NOT NULL,
    process text NOT NULL,                        -- whose beats count, for all loops that it leads
    pid integer NOT NULL,                         -- of the session, as pg_stat_activity has it
    led_since timestamptz NOT NULL,
    beaten_at timestamptz NOT NULL
);

-- The PostgreSQL that wrote the log last. Another one, or another timeline, may have lost events. So
-- may other tables: those of a dump that was restored.
CREATE TABLE ledger.lineage (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    system_identifier text NOT NULL,              -- empty: the user may not ask for it
    timeline bigint NOT NULL,
    tables text NOT NULL                          -- the OIDs of the database and of the log's table
);

-- Which PostgreSQL this is: the cluster, unless the user may not ask for it, and the timeline of its
-- log. Fails on a standby.
CREATE FUNCTION ledger.this_postgresql() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    cluster text;
BEGIN
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT system_identifier INTO cluster FROM pg_control_system();
    END IF;
    RETURN concat_ws(' ', cluster, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8));
END
$$;

-- Reads -------------------------------------------------------------------------------------------

-- What the API's role reads of tables that it has no right on, each as narrow as its use. The role
-- logs in by itself, owns nothing, and sees rows by policies (engine/log/schema/walls.py has the list). The
-- settings ledger.organization_id and ledger.workspace_id name the session's tenant: an organization,
-- and one of its workspaces or * for all of them; or * and * for every tenant.
-- Each function has its owner's right, and shows nothing in a session whose settings name no tenant.
-- Their plans are made once a session and must walk an index, even if they are made while a table is
-- empty.

-- The stored events at these positions, as far as the session's tenant has them, many in one call:
-- views keep the keys of an event alone, and feeds, histories and the audit log are rendered from the
-- event itself. A stored event is JSON without blanks that begins with the format and the tenant. It
-- is compared as text: parsing it takes ten times as long.
CREATE FUNCTION ledger.stored_events(positions bigint[])
RETURNS TABLE ("position" bigint, stream text, version bigint, topic text, state bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    organization text := current_setting('ledger.organization_id', true);
    workspace text := current_setting('ledger.workspace_id', true);
    tenant bytea := convert_to('[2,' || to_json(organization) || ','
        || CASE workspace WHEN '*' THEN '' ELSE to_json(workspace) || ',' END, 'UTF8');
BEGIN
    RETURN QUERY
    SELECT e.notification_id, e.originator_id, e.originator_version, e.topic, e.state
    FROM ledger.ledger_events AS e
    WHERE e.notification_id = ANY (positions)
      AND CASE WHEN organization = '*' THEN workspace = '*'
          ELSE substring(e.state FROM 1 FOR octet_length(tenant)) = tenant END;
END $$;

-- Where the log ends, or null if it is empty. Positions and instants tell nothing of a tenant.
CREATE FUNCTION ledger.log_end() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE current_setting('ledger.organization_id', true) <> ''
            ORDER BY notification_id DESC LIMIT 1);
END $$;

-- The last position that was recorded by an instant, or null.
CREATE FUNCTION ledger.position_by(instant timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE recorded_at <= instant AND current_setting('ledger.organization_id', true) <> ''
            ORDER BY recorded_at DESC LIMIT 1);
END $$;

-- The first position that was recorded at an instant or later, or null.
CREATE FUNCTION ledger.position_from(instant timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT notification_id FROM ledger.ledger_events
            WHERE recorded_at >= instant AND current_setting('ledger.organization_id', true) <> ''
            ORDER BY recorded_at LIMIT 1);
END $$;

-- When the event at a position was recorded, or null.
CREATE FUNCTION ledger.recorded_at(at bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT e.recorded_at FROM ledger.ledger_events AS e
            WHERE e.notification_id = at AND current_setting('ledger.organization_id', true) <> '');
END $$;

-- The number of events from a position to another, which is not counted itself (null: to the end of
-- the log), or ``most`` if there are more.
CREATE FUNCTION ledger.events_between(first bigint, beyond bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT count(*) FROM (
        SELECT FROM ledger.ledger_events
        WHERE notification_id >= first
          AND notification_id < COALESCE(beyond, 9223372036854775807)
          AND current_setting('ledger.organization_id', true) <> ''
        LIMIT most) AS counted);
END $$;

-- The last beat.
CREATE FUNCTION ledger.beaten_at() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT l.beaten_at FROM ledger.listening AS l
            WHERE l.is_only AND current_setting('ledger.organization_id', true) <> '');
END $$;

-- The instant of the last event; on a standby that of the last beat if that is later: no further
-- event will be recorded at an instant before. (On the primary a reader can await the append in
-- flight instead.)
CREATE FUNCTION ledger.known_until() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
BEGIN
    RETURN greatest(
        (SELECT e.recorded_at FROM ledger.ledger_events AS e
         WHERE current_setting('ledger.organization_id', true) <> ''
         ORDER BY e.notification_id DESC LIMIT 1),
        CASE WHEN pg_is_in_recovery() THEN ledger.beaten_at() END);
END $$;

-- Those of the given secrets that pass at an instant, by their hashes, with their keys, and the
-- instant at which each of them ends: its key's, or that of its own if a rotation has replaced it.
-- (least() ignores NULL.) The tenant is not known before: this is asked for every tenant, and a hash
-- is 32 bytes that only the key's holder can name.
CREATE FUNCTION ledger.passing_keys(hashes bytea[], at timestamptz)
RETURNS TABLE (secret_hash bytea, key_id text, organization_id text, workspace_id text,
               permissions text[], ends_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT s.secret_hash, k.key_id, k.organization_id, k.workspace_id, k.permissions,
        least(k.expires_at, s.valid_until)
    FROM (
        SELECT c.secret_hash, c.key_id, NULL::timestamptz AS valid_until
        FROM ledger.api_key AS c WHERE c.secret_hash = ANY (hashes)
        UNION ALL
        SELECT f.secret_hash, f.key_id, f.valid_until
        FROM ledger.former_secret AS f WHERE f.secret_hash = ANY (hashes)
    ) AS s JOIN ledger.api_key AS k ON k.key_id = s.key_id
    WHERE k.revoked_at IS NULL AND coalesce(least(k.expires_at, s.valid_until) > at, true)
      AND current_setting('ledger.organization_id', true) = '*'
      AND current_setting('ledger.workspace_id', true) = '*';
END $$;

-- The session of a secret, by its hash, unless its time is over at an instant. The use of a session
-- is noted as that of a key is. As with keys, this is asked for every tenant.
CREATE FUNCTION ledger.sessions_of(hashes bytea[], at timestamptz, idle interval)
RETURNS TABLE (session_id text, secret_hash bytea, by text, issuer text, sub text, sid text,
               organization_id text, workspace_id text, permissions text[], claims text,
               kept bytea, signed_at timestamptz, checked_at timestamptz, asked_at timestamptz,
               begun_at timestamptz, ends_at timestamptz, browser text, network text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT s.*
    FROM ledger.session AS s LEFT JOIN ledger.key_use AS u ON u.key_id = s.session_id
    WHERE s.secret_hash = ANY (hashes) AND s.ends_at > at
      AND coalesce(u.used_at, s.begun_at) + idle > at
      AND current_setting('ledger.organization_id', true) = '*'
      AND current_setting('ledger.workspace_id', true) = '*';
END $$;

-- Whether the session's tenant has a line, which the line's first event tells. A statement asks this
-- before it walks along a line's events: it would search all events of a neighbour's line for the
-- first that is not hidden.
CREATE FUNCTION ledger.sees_line(line text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    organization text := current_setting('ledger.organization_id', true);
    workspace text := current_setting('ledger.workspace_id', true);
BEGIN
    RETURN EXISTS (
        SELECT FROM (
            SELECT e.organization_id, e.workspace_id FROM ledger.event AS e
            WHERE hashtextextended(e.line_id, 0) = hashtextextended(line, 0) AND e.line_id = line
            ORDER BY hashtextextended(e.line_id, 0), e.position LIMIT 1
        ) AS first
        WHERE CASE WHEN workspace = '*' THEN organization IN ('*', first.organization_id)
              ELSE organization = first.organization_id AND workspace = first.workspace_id END
    );
END $$;

-- Whether the session's tenant has an endpoint: for the policies of its deliveries. With the right
-- of who asks, whom the policy of the view binds. No policy may name a view, which every rebuild
-- replaces.
CREATE FUNCTION ledger.sees_endpoint(id text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM ledger.webhook AS w WHERE w.endpoint_id = id);
END $$;

-- Rights ------------------------------------------------------------------------------------------

-- Each start takes from PUBLIC, and gives to the role of reads, what engine/log/schema/walls.py says.
-- Until then these hold.
REVOKE ALL ON FUNCTION ledger.this_postgresql() FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.await_append() FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.stored_events(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.beaten_at() FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.known_until() FROM PUBLIC;
REVOKE ALL ON FUNCTION ledger.sessions_of(bytea[], timestamptz, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.await_append(), ledger.stored_events(bigint[]) TO ledger_api;
GRANT SELECT (notification_id, recorded_at) ON ledger.ledger_events TO ledger_api;
GRANT SELECT (vkey, stopped_at, error) ON ledger.signer TO ledger_api;
GRANT SELECT ON ledger.api_key, ledger.former_secret, ledger.key_use, ledger.run_key, ledger.lease,
    ledger.projection, ledger.delivery, ledger.dispatch, ledger.tile, ledger.checkpoint,
    ledger.verification TO ledger_api;
