"""Pure: events, rules and folds, one file an aggregate. No I/O, no clock, no ids of its own."""
