-- The log. The table itself is the library's (eventsourcing's application recorder); this adds the
-- time of recording, which orders as-of questions, and forbids what must never happen to it.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.ledger_events
    ALTER COLUMN topic SET NOT NULL,
    ALTER COLUMN state SET NOT NULL,
    ADD COLUMN recorded_at timestamptz NOT NULL,
    ADD CONSTRAINT ledger_events_version_from_one CHECK (originator_version >= 1);

CREATE FUNCTION ledger.forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is forbidden', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'raise_exception', CONSTRAINT = 'ledger_events_append_only';
END $$;

CREATE TRIGGER ledger_events_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.ledger_events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.forbid_change();
