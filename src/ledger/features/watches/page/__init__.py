"""The pages of watches, alerts and sources; the bell."""
