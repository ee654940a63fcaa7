"""The event store: codec, append, decision tables, snapshots, vault, migrations."""
