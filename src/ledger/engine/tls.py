"""Whom the service trusts when it calls others: identity providers, receivers, mail servers."""

import ssl

import certifi


def trusting_context() -> ssl.SSLContext:
    """A context that trusts the system's authorities, and those of certifi. Loads files."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
