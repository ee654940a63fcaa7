"""The routes of watches, alerts and sources."""
