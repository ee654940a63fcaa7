"""What is said outside: events in feeds, streams, histories and the audit log."""
