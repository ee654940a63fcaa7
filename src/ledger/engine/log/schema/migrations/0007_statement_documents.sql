-- The documents of statements. Each is stored before its event, which has its hash; one without an
-- event is removed within a day.

SET LOCAL lock_timeout = '5s';

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
