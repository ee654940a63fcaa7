"""The aggregate of an endpoint; the channels of people."""
