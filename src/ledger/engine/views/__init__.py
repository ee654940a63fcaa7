"""The machinery of views: the contract, the projector, rebuilding and verifying."""
