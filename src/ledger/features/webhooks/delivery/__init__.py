"""From the feed to an endpoint: schedule, signature, connection, verdict."""
