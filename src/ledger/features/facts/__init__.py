"""Facts as product lines report them: the envelope, the types, the report."""
