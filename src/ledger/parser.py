"""A process that parses a file's facts while they are recorded.

To parse a fact takes half as long as to decide and write it, and one interpreter does either.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from ledger.application import facts, json_gate
from ledger.application.facts import MAX_ITEMS, Fact, Rejected
from ledger.domain.errors import Invalid, Unavailable
from ledger.processes import Lifeline, calm_collector, show_name

_AHEAD = 3
"""Chunks handed to the parser before the oldest is waited for."""

T = TypeVar("T")
R = TypeVar("R")

Line = tuple[int, Fact | Rejected]
"""A fact, or why it is none, and the number of its line; empty lines have none."""


class Parser:
    """What ``parsing`` gives."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def parse(
        self, stream: Iterable[bytes], advance: Callable[[int], None]
    ) -> Iterator[list[Line]]:
        """The stream's facts in chunks; ``advance`` is told how many bytes each chunk took."""
        lines = enumerate(stream, 1)
        chunks = iter(lambda: list(islice(lines, MAX_ITEMS)), [])
        submitted = (
            (sum(len(raw) for _, raw in chunk), self._pool.submit(_parse, chunk))
            for chunk in chunks
        )
        for size, parsed in in_order(submitted, _AHEAD):
            yield parsed
            advance(size)


def in_order(submitted: Iterable[tuple[T, Future[R]]], ahead: int) -> Iterator[tuple[T, R]]:
    """What each came to; so many are submitted before the oldest is waited for."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for one in submitted:
        waiting.append(one)
        if len(waiting) == ahead:
            item, future = waiting.popleft()
            yield item, future.result()
    for item, future in waiting:
        yield item, future.result()


@contextmanager
def parsing() -> Iterator[Parser]:
    """A parser, forked at once: before there are threads, or locks that it would inherit.

    Raises Unavailable where it ends before its time.
    """
    lifeline = Lifeline()

    def begin() -> None:
        lifeline.watch()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
        multiprocessing.current_process().name = "ledger-parser"
        show_name()
        calm_collector()

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, begin) as pool:
        try:
            pool.submit(_parse, []).result()
            yield Parser(pool)
        except BrokenProcessPool as error:
            raise Unavailable("The process that parses the file has ended.") from error


def _parse(lines: Sequence[tuple[int, bytes]]) -> list[Line]:
    return [(number, _fact(raw.strip())) for number, raw in lines if not raw.isspace()]


def _fact(raw: bytes) -> Fact | Rejected:
    try:
        return facts.from_structured(raw)
    except json_gate.BrokenJson as error:
        return Rejected(Invalid(str(error)))
