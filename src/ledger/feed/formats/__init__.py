"""What endpoints are sent of an event: pure functions from envelopes to a request."""
