"""Machinery that keeps views: the contract and the projector."""
