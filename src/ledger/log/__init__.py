"""The event store: codec, recorder, append, decision tables, snapshots, vault, migrations."""
