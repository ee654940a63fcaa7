"""Values without I/O: ids, instants, the calendar, errors, the event table, the base of aggregates."""
