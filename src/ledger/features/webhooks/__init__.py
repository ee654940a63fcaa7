"""Webhooks and channels: endpoints, and the deliveries to them."""
