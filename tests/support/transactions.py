"""Transactions that leave nothing behind."""

import contextlib
from collections.abc import Iterator

import psycopg

from ledger.engine.postgres.pipeline import Pipeline, Transaction


class _Undo(Exception):
    """Raised to roll a transaction back."""


@contextlib.contextmanager
def undone(conninfo: str) -> Iterator[Transaction]:
    """A transaction that is never committed."""
    with (
        psycopg.connect(conninfo, autocommit=True) as connection,
        contextlib.suppress(_Undo),
        Pipeline(connection).transaction() as transaction,
    ):
        yield transaction
        raise _Undo
