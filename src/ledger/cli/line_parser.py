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

from ledger.domain.errors import Invalid, TooLarge, Unavailable
from ledger.intake import envelope, json_gate
from ledger.intake.envelope import (
    MAX_FACT_BYTES,
    MAX_ITEMS,
    TOO_LARGE,
    Fact,
    Rejected,
)
from ledger.service.processes import Lifeline, calm_collector, show_name

_AHEAD = 3
"""Chunks handed to the parser before the oldest is waited for."""

_READ = 1 << 18
"""Bytes at a time."""

_MAX_LINE = 2 * MAX_FACT_BYTES
"""What a line is longer by is dropped: no fact needs it, whatever blanks are around it."""

_CHUNK_BYTES = 1 << 20
"""Lines that are longer than usual are handed on fewer at a time: they wait in several places."""

_PAUSE_SECONDS = 0.2
"""After so long without input, what has come is recorded."""

T = TypeVar("T")
R = TypeVar("R")

ParsedLine = tuple[int, Fact | Rejected]
"""A fact, or why it is none, and the number of its line; empty lines have none."""


class Parser:
    """What ``parsing`` gives."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def parse(
        self, stream: BinaryIO, advance: Callable[[int], None]
    ) -> Iterator[list[ParsedLine] | None]:
        """The stream's facts in chunks; ``advance`` is told how many bytes each chunk took."""
        for done in in_order(self._submit(stream), _AHEAD):
            if done is None:
                yield None
            else:
                size, parsed = done
                yield parsed
                advance(size)

    def _submit(self, stream: BinaryIO) -> Iterator[tuple[int, Future[list[ParsedLine]]] | None]:
        number = 1
        for size, chunk in _chunks(stream):
            if chunk:
                yield size, self._pool.submit(_parse, number, chunk)
                number += len(chunk)
            else:
                yield None


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


def _chunks(stream: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """The stream's lines, some at a time, and how many bytes they took; none for a pause."""
    source = stream.fileno()
    lines = _Lines()
    while True:
        if not select.select([source], [], [], _PAUSE_SECONDS)[0]:
            if lines.whole:
                yield lines.take()
            yield 0, []
        read = os.read(source, _READ)
        if not read:
            break
        lines.add(read)
        while lines.suffice():
            yield lines.take()
    lines.end()
    if lines.whole:
        yield lines.take()


class _Lines:
    """Lines as they come in pieces: those that are whole, and one that has begun.

    Number and size of what is taken at once are bounded: memory does not depend on the file.
    """

    def __init__(self) -> None:
        self.whole: list[bytes] = []
        self._begun = bytearray()
        self._held = 0
        """The bytes of those that are whole."""
        self._read = 0
        """The bytes since the last were taken; the last line's rest counts for the next."""

    def add(self, read: bytes) -> None:
        """The next piece."""
        self._read += len(read)
        first, *others = read.split(b"\n")
        self._go_on(first)
        if others:
            self._end_line()
            *whole, begun = others  # of one reading, and so no longer than a line may be
            self.whole += whole
            self._held += sum(map(len, whole))
            self._go_on(begun)

    def end(self) -> None:
        """There is no more: the last line may lack its end."""
        if self._begun:
            self._end_line()

    def suffice(self) -> bool:
        """Whether some should be taken before more is read."""
        return len(self.whole) >= MAX_ITEMS or self._held > _CHUNK_BYTES

    def take(self) -> tuple[int, list[bytes]]:
        """The first whole lines, and the bytes that were read meanwhile."""
        taken, self.whole = self.whole[:MAX_ITEMS], self.whole[MAX_ITEMS:]
        self._held -= sum(map(len, taken))
        size, self._read = self._read, 0
        return size, taken

    def _go_on(self, piece: bytes) -> None:
        # One byte more than fits tells that it was too long.
        self._begun += piece[: _MAX_LINE + 1 - len(self._begun)]

    def _end_line(self) -> None:
        self.whole.append(bytes(self._begun))
        self._held += len(self._begun)
        self._begun.clear()


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


def _parse(first: int, lines: Sequence[bytes]) -> list[ParsedLine]:
    return [(number, _fact(raw)) for number, raw in enumerate(lines, first) if raw.strip()]


def _fact(raw: bytes) -> Fact | Rejected:
    if len(raw) > _MAX_LINE:
        return Rejected(TooLarge(TOO_LARGE))
    try:
        return envelope.from_structured(raw.strip())
    except json_gate.BrokenJson as error:
        return Rejected(Invalid(str(error)))
