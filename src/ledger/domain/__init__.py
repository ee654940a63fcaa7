"""Pure: events, rules and folds of lines, runs and keys. No I/O, no clock, no ids of its own."""
