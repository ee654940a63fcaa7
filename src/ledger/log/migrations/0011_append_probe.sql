-- What a node writes each second while nobody else writes, to find out whether appends succeed.

CREATE TABLE ledger.append_probe (
    is_only boolean PRIMARY KEY DEFAULT true CONSTRAINT append_probe_one_row CHECK (is_only),
    written_at timestamptz NOT NULL
);

INSERT INTO ledger.append_probe (written_at) VALUES (clock_timestamp());
