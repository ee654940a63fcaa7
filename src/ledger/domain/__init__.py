"""The domain: events, rules and folds, one file per aggregate; no I/O, no clock, no new ids."""
