"""Watches, and the alerts that they open."""
