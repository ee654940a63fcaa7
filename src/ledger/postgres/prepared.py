"""Statements as libpq takes them: PostgreSQL's own placeholders, prepared once a connection.

For what sends with psycopg's ``pq`` module, several statements in one round trip: ``pipeline.py``,
and the lanes of the edge's reads.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import psycopg
from psycopg import pq
from psycopg.abc import Buffer

_MOST = 100
"""Statements that stay prepared: each takes memory in PostgreSQL."""

_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%|)")

Key = tuple[bytes, tuple[int, ...]]
"""A statement, and the types of its parameters where it does not say: what is prepared."""


class Prepared:
    """What one connection in pipeline mode has prepared: the statements that were used last."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg
        self._names: OrderedDict[Key, bytes] = OrderedDict()
        self._outdated: list[bytes] = []
        self._made = 0

    def close_outdated(self) -> int:
        """Send word of those not needed any more; how many results will come of it.

        To be sent before others: behind a statement that fails it would be passed over.
        """
        closed = len(self._outdated)
        while self._outdated:
            self._pg.send_close_prepared(self._outdated.pop())
        return closed

    def send(self, key: Key, values: Sequence[Buffer | None], formats: Sequence[pq.Format]) -> bool:
        """Send a statement; whether a result of its preparation will come before its own."""
        name = self._names.get(key)
        is_new = name is None
        if name is None:
            if len(self._names) >= _MOST:
                self._outdated.append(self._names.popitem(last=False)[1])
            self._made += 1
            name = self._names[key] = b"ledger%d" % self._made
            self._pg.send_prepare(name, *key)
        else:
            self._names.move_to_end(key)
        self._pg.send_query_prepared(name, values, formats, pq.Format.BINARY)
        return is_new

    def forget(self, key: Key) -> None:
        """Prepare a statement anew the next time: after an error, whatever it was."""
        if name := self._names.pop(key, None):
            self._outdated.append(name)


@lru_cache(4096)
def numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with PostgreSQL's own placeholders, and the names they stand for in order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] is None:
            raise psycopg.ProgrammingError("a placeholder is %(name)s, a percent sign %%")
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(number, statement).encode(), tuple(names)
