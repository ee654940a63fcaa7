"""Use cases: commands are decided under the append lock and become events."""
