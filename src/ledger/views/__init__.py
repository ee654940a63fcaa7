"""Machinery that keeps views: the contract, the projector, rebuilding and verifying."""
