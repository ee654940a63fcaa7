"""Values without I/O: ids, instants, errors, the calendar, the event table, aggregates' base."""
