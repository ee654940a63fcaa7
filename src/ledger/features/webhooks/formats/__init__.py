"""The formats of endpoints: pure functions from the envelopes of events to a request."""
