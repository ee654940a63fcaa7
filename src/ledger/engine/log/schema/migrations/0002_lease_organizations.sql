-- The organizations of leases: they take turns when many leases end at one moment.

SET LOCAL lock_timeout = '5s';

-- '' is a lease that a node of the version before has begun. Such leases take turns together.
ALTER TABLE ledger.lease ADD COLUMN organization_id text NOT NULL DEFAULT '';

UPDATE ledger.lease AS l SET organization_id = k.organization_id
FROM ledger.run_key AS k WHERE k.run_id = l.run_id;

-- Heartbeats leave this index alone. The index by due_at alone is for the version before.
CREATE INDEX lease_organization_id_due_at_idx ON ledger.lease (organization_id, due_at);
