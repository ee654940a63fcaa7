"""The routes of keys, and of the credential that asks."""
