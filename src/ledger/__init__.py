"""The execution ledger."""

__version__ = "0.1.0"
