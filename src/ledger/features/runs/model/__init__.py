"""The aggregates of a run and of the reads of its data; its tokens."""
