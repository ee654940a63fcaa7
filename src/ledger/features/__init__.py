"""The features: one folder each, which holds all of a feature but its view (``projections/``)."""
