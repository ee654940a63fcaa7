"""The event store as we use it: codec, recorder, decision tables, vault, migrations."""
