"""A process that parses a file's facts while they are recorded.

To parse a fact takes half as long as to decide and write it, and one interpreter does either. What
is handed ahead waits for more; so where a pipe has no more for a moment, ``None`` takes the place
of a chunk, all along the way, and whatever waits is seen to.
"""

import multiprocessing
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

from ledger.application import facts, json_gate
from ledger.application.facts import MAX_ITEMS, Fact, Rejected
from ledger.domain.errors import Invalid, Unavailable
from ledger.processes import Lifeline, calm_collector, show_name

_AHEAD = 3
"""Chunks handed to the parser before the oldest is waited for."""

_READ = 1 << 18
"""Bytes at a time."""

_PAUSE_SECONDS = 0.2
"""After so long without input, what has come is recorded."""

T = TypeVar("T")
R = TypeVar("R")

Line = tuple[int, Fact | Rejected]
"""A fact, or why it is none, and the number of its line; empty lines have none."""


class Parser:
    """What ``parsing`` gives."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def parse(
        self, stream: BinaryIO, advance: Callable[[int], None]
    ) -> Iterator[list[Line] | None]:
        """The stream's facts in chunks; ``advance`` is told how many bytes each chunk took."""
        for done in in_order(self._submit(stream), _AHEAD):
            if done is None:
                yield None
            else:
                size, parsed = done
                yield parsed
                advance(size)

    def _submit(self, stream: BinaryIO) -> Iterator[tuple[int, Future[list[Line]]] | None]:
        number = 1
        for chunk in _chunks(stream):
            if chunk is None:
                yield None
            else:
                size = sum(map(len, chunk)) + len(chunk)
                yield size, self._pool.submit(_parse, number, chunk)
                number += len(chunk)


def in_order(
    submitted: Iterable[tuple[T, Future[R]] | None], ahead: int
) -> Iterator[tuple[T, R] | None]:
    """What each came to; so many are submitted before the oldest is waited for."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for one in submitted:
        if one is not None:
            waiting.append(one)
        while waiting and (one is None or len(waiting) == ahead):
            item, future = waiting.popleft()
            yield item, future.result()
        if one is None:
            yield None
    for item, future in waiting:
        yield item, future.result()


def _chunks(stream: BinaryIO) -> Iterator[list[bytes] | None]:
    """The stream's lines, some at a time."""
    source = stream.fileno()
    lines: list[bytes] = []
    begun: list[bytes] = []  # a line that has not ended
    while True:
        if not select.select([source], [], [], _PAUSE_SECONDS)[0]:
            if lines:
                yield lines
                lines = []
            yield None
        read = os.read(source, _READ)
        if not read:
            break
        first, *others = read.split(b"\n")
        begun.append(first)
        for other in others:
            lines.append(b"".join(begun))
            begun = [other]
        while len(lines) >= MAX_ITEMS:
            yield lines[:MAX_ITEMS]
            lines = lines[MAX_ITEMS:]
    if last := b"".join(begun):
        lines.append(last)
    if lines:
        yield lines


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
            pool.submit(_parse, 1, []).result()
            yield Parser(pool)
        except BrokenProcessPool as error:
            raise Unavailable("The process that parses the file has ended.") from error


def _parse(first: int, lines: Sequence[bytes]) -> list[Line]:
    stripped = enumerate(map(bytes.strip, lines), first)
    return [(number, _fact(raw)) for number, raw in stripped if raw]


def _fact(raw: bytes) -> Fact | Rejected:
    try:
        return facts.from_structured(raw)
    except json_gate.BrokenJson as error:
        return Rejected(Invalid(str(error)))
