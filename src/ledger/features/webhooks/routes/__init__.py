"""The routes of endpoints and deliveries."""
