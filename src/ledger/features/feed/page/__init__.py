"""The pages of events and of the audit log; the slider through a history."""
