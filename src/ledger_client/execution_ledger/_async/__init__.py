"""The asynchronous client. The synchronous client is generated from it."""
