"""What the ledger says outside: names and payloads of events, actions of the audit log, JSON."""
