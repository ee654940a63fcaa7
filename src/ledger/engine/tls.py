"""Trust in the servers that the service calls: identity providers, receivers, mail servers."""

import ssl

import certifi


def trusting_context() -> ssl.SSLContext:
    """A context that trusts the authorities of the system and of certifi. Loads files."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
