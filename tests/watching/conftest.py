"""The ledger below HTTP, as the tests of the write side have it."""

from tests.application.conftest import no_group_fails, own_ledger

__all__ = ["no_group_fails", "own_ledger"]
