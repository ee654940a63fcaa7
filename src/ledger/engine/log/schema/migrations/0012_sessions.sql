-- Sessions of people at the pages, and the names of those who come by the identity provider. Both are
-- beside the log: it has who signed in, where, and how the session ended.

SET LOCAL lock_timeout = '5s';

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

REVOKE ALL ON FUNCTION ledger.sessions_of(bytea[], timestamptz, interval) FROM PUBLIC;
