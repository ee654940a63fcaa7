-- Watches: those of an organization, for their limit, and what the loop of watches knows of lines.

SET LOCAL lock_timeout = '5s';

CREATE TABLE ledger.organization_watch (
    organization_id text NOT NULL,
    watch_id text NOT NULL,
    PRIMARY KEY (organization_id, watch_id)
);

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
