"""The routes of feeds, streams, histories, event types and the audit log."""
