"""Use cases: what is asked for becomes events, under the append lock."""
