-- What a decision needs and a line's or run's own stream cannot tell. Written in the append
-- transaction, read under its lock, and, but for run_key, derivable from the log at any time.

SET LOCAL lock_timeout = '5s';

-- Facts already recorded: a fact sent again finds its first outcome here.
CREATE TABLE ledger.fact (
    organization_id text NOT NULL,
    source text NOT NULL,
    fact_id text NOT NULL,
    digest bytea NOT NULL,
    run_id text,                  -- set where the digest is an HMAC under that run's key
    subject text NOT NULL,
    event_ids text NOT NULL,      -- EVT ids, own event first, separated by one space
    position bigint NOT NULL,     -- of the last event that the fact caused
    CONSTRAINT fact_pkey PRIMARY KEY (organization_id, source, fact_id)
);

-- Runs that are pending or running. A closing takes their versions from here.
CREATE TABLE ledger.open_run (
    line_id text NOT NULL,
    run_id text NOT NULL,
    version bigint NOT NULL,
    started_at timestamptz,
    CONSTRAINT open_run_pkey PRIMARY KEY (line_id, run_id)
);

-- The idle decision: runs move these without moving the line's own version.
CREATE TABLE ledger.line_activity (
    line_id text PRIMARY KEY,
    last_activity_at timestamptz NOT NULL,
    open_runs integer NOT NULL,
    CONSTRAINT line_activity_open_runs_from_zero CHECK (open_runs >= 0)
) WITH (fillfactor = 70);

-- Check-ins, so that one can be voided: a line has far too many of them for its aggregate.
CREATE TABLE ledger.check_in (
    line_id text NOT NULL,
    source text NOT NULL,
    fact_id text NOT NULL,
    hours double precision,
    at timestamptz NOT NULL,
    resource_id text,
    voided boolean NOT NULL DEFAULT false,
    CONSTRAINT check_in_pkey PRIMARY KEY (line_id, source, fact_id)
);

-- RUN ids that name an execution record: they are taken, and are no runs.
CREATE TABLE ledger.execution_record (
    execution_id text PRIMARY KEY,
    line_id text NOT NULL,
    organization_id text NOT NULL
);

-- The last id issued, per prefix and UTC year of recording. Supplied ids never move it.
CREATE TABLE ledger.id_counter (
    prefix text NOT NULL,
    year integer NOT NULL,
    last bigint NOT NULL,
    CONSTRAINT id_counter_pkey PRIMARY KEY (prefix, year)
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
    revoked_at timestamptz
);

-- One wrapped data key a run. Not derivable: destroying a row is what erases a run's payloads.
CREATE TABLE ledger.run_key (
    run_id text PRIMARY KEY,
    organization_id text NOT NULL,
    wrapped bytea,
    destroyed_at timestamptz,
    CONSTRAINT run_key_wrapped_or_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);

-- What every process must agree on, such as the master key's fingerprint.
CREATE TABLE ledger.setting (
    name text PRIMARY KEY,
    value text NOT NULL
);

GRANT SELECT ON ledger.api_key, ledger.run_key TO ledger_api;
