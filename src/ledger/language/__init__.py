"""The published language: names and payloads of events, actions of the audit log, JSON."""
