-- What the comparisons of stored data with the log found last: a row for each part that is compared
-- on its own. A later comparison of the same part replaces the row.

SET LOCAL lock_timeout = '5s';

ALTER TABLE ledger.verification RENAME TO verification_until_0020;

CREATE TABLE ledger.verification (
    part text PRIMARY KEY,                        -- log/verifications.py names the parts
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    first bigint NOT NULL,                        -- positions of the events that it covers;
    last bigint NOT NULL,                         -- both 0 if there is none
    compared bigint NOT NULL,                     -- events, or rows of the tables beside the log
    differences bigint NOT NULL,
    named jsonb NOT NULL,                         -- the first of them, as {table, key, column}
    CONSTRAINT verification_differences_from_zero CHECK (differences >= 0)
);

INSERT INTO ledger.verification
SELECT name, verified_at, verified_at, 0, 0, 0, differs::int, '[]'
FROM ledger.verification_until_0020;

DROP TABLE ledger.verification_until_0020;

ALTER TABLE ledger.verification RENAME CONSTRAINT verification_pkey1 TO verification_pkey;

GRANT SELECT ON ledger.verification TO ledger_api;

-- The time of signing is in no signed note, so nothing could show that it was altered.
ALTER TABLE ledger.checkpoint DROP COLUMN signed_at;

-- The checkpoints are counted, so that a missing one leaves a gap.
ALTER TABLE ledger.checkpoint ADD COLUMN number bigint;
UPDATE ledger.checkpoint AS c SET number = counted.number
FROM (SELECT size, row_number() OVER (ORDER BY size) AS number FROM ledger.checkpoint) AS counted
WHERE c.size = counted.size;
ALTER TABLE ledger.checkpoint
    ALTER COLUMN number SET NOT NULL,
    ADD CONSTRAINT checkpoint_number_unique UNIQUE (number),
    ADD CONSTRAINT checkpoint_number_from_one CHECK (number >= 1);
