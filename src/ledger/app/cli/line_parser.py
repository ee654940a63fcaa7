"""A process that parses a file's facts while they are recorded.

Parsing a fact takes half as long as deciding and writing it, so a second interpreter does it. A
submitted chunk waits until further chunks follow. If a pipe has no more input for a moment,
``None`` takes the place of a chunk in each stage, and the stage finishes its chunks.
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
from typing import BinaryIO, Protocol, TypeVar

from ledger.app.processes import Lifeline, calm_collector, show_name
from ledger.engine.values import json_gate
from ledger.engine.values.errors import Invalid, TooLarge, Unavailable
from ledger.features.facts import envelope
from ledger.features.facts.envelope import MAX_FACT_BYTES, MAX_ITEMS, TOO_LARGE, Fact, Rejected

_AHEAD = 3
"""Chunks submitted to the parser before waiting for the oldest."""

_READ = 1 << 18

MAX_LINE = 2 * MAX_FACT_BYTES
"""The rest of a longer line is dropped: no fact needs it, even with blanks around the fact."""

CHUNK_BYTES = 1 << 20
"""A chunk of long lines ends at about this size: several chunks are in memory at once."""

_PAUSE_SECONDS = 0.2
"""After so long without input, the lines so far are recorded."""

T = TypeVar("T")
R = TypeVar("R")

ParsedLine = tuple[int, Fact | Rejected]
"""The number of a line, and its fact or refusal. Empty lines are left out."""

Chunk = tuple[int, list[tuple[int, T]]]
"""The bytes of a chunk, and its items with the numbers of their lines."""


class Format(Protocol[T]):
    """A format of files: how a file is cut into items, and how an item becomes a fact."""

    def chunks(self, stream: BinaryIO) -> Iterator[Chunk[T] | None]:
        """The items of a file in chunks of ``MAX_ITEMS``, None for a pause of a pipe."""

    def read(self, item: T, /) -> Fact | Rejected:
        """The fact of an item. Runs in the parser's process."""

    def locate(self, pointer: str) -> str:
        """A place of a fact in the words of the file's author."""


class JsonLines:
    """One structured CloudEvent a line."""

    def chunks(self, stream: BinaryIO) -> Iterator[Chunk[bytes] | None]:
        return chunks_of_lines(stream)

    def read(self, item: bytes) -> Fact | Rejected:
        return fact_of(item)

    def locate(self, pointer: str) -> str:
        return pointer


class Parser:
    """The interface to the parser's process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def parse(
        self, form: Format[T], stream: BinaryIO, advance: Callable[[int], None]
    ) -> Iterator[list[ParsedLine] | None]:
        """The stream's facts in chunks, None for a pause.

        Calls ``advance`` with the bytes of each chunk.
        """
        submitted = (
            None if chunk is None else (chunk[0], self._pool.submit(_parse, form.read, chunk[1]))
            for chunk in form.chunks(stream)
        )
        for done in in_order(submitted, _AHEAD):
            if done is None:
                yield None
            else:
                size, parsed = done
                yield parsed
                advance(size)


def in_order(
    submitted: Iterable[tuple[T, Future[R]] | None], ahead: int
) -> Iterator[tuple[T, R] | None]:
    """Each item with its result, in order; None passes through once all items before it are done.

    ``ahead`` items are submitted before waiting for the oldest.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    for entry in submitted:
        if entry is not None:
            waiting.append(entry)
        while waiting and (entry is None or len(waiting) == ahead):
            item, future = waiting.popleft()
            yield item, future.result()
        if entry is None:
            yield None
    for item, future in waiting:
        yield item, future.result()


def chunks_of_lines(stream: BinaryIO) -> Iterator[Chunk[bytes] | None]:
    """The stream's lines in chunks, without the empty lines."""
    source = stream.fileno()
    lines = _Lines()
    while True:
        if not select.select([source], [], [], _PAUSE_SECONDS)[0]:
            if lines.whole:
                yield lines.pop_chunk()
            yield None
        read = os.read(source, _READ)
        if not read:
            break
        lines.add(read)
        while lines.suffice():
            yield lines.pop_chunk()
    lines.end()
    if lines.whole:
        yield lines.pop_chunk()


class _Lines:
    """Lines that arrive in pieces: the whole lines, and the line that has begun.

    Number and size of the lines in a chunk are bounded: memory does not depend on the file.
    """

    def __init__(self) -> None:
        self.whole: list[bytes] = []
        self._begun = bytearray()
        self._number = 1
        self._held = 0
        """The bytes of the whole lines."""
        self._read = 0
        """The bytes read since the last chunk; the rest of its last line counts for the next."""

    def add(self, read: bytes) -> None:
        self._read += len(read)
        first, *others = read.split(b"\n")
        self._go_on(first)
        if others:
            self._end_line()
            *whole, begun = others  # from one read, so no longer than a line may be
            self.whole += whole
            self._held += sum(map(len, whole))
            self._go_on(begun)

    def end(self) -> None:
        """Note the end of the input: the last line may lack its newline."""
        if self._begun:
            self._end_line()

    def suffice(self) -> bool:
        return len(self.whole) >= MAX_ITEMS or self._held > CHUNK_BYTES

    def pop_chunk(self) -> Chunk[bytes]:
        """Take the first whole lines as a chunk, with the bytes read since the last chunk."""
        lines, self.whole = self.whole[:MAX_ITEMS], self.whole[MAX_ITEMS:]
        self._held -= sum(map(len, lines))
        size, self._read = self._read, 0
        numbered = [(n, raw) for n, raw in enumerate(lines, self._number) if raw.strip()]
        self._number += len(lines)
        return size, numbered

    def _go_on(self, piece: bytes) -> None:
        # One byte above the maximum stays: it marks the line as too long.
        self._begun += piece[: MAX_LINE + 1 - len(self._begun)]

    def _end_line(self) -> None:
        self.whole.append(bytes(self._begun))
        self._held += len(self._begun)
        self._begun.clear()


@contextmanager
def parsing() -> Iterator[Parser]:
    """A parser, forked at once: before this process has threads, or locks to be inherited.

    Raises Unavailable if the parser's process ends too early.
    """
    lifeline = Lifeline()

    def begin() -> None:
        lifeline.watch()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends SIGINT to both processes
        multiprocessing.current_process().name = "ledger-parser"
        show_name()
        calm_collector()

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, begin) as pool:
        try:
            pool.submit(_parse, fact_of, []).result()
            yield Parser(pool)
        except BrokenProcessPool as error:
            raise Unavailable("The process that parses the file has ended.") from error


def _parse(
    read: Callable[[T], Fact | Rejected], items: Sequence[tuple[int, T]]
) -> list[ParsedLine]:
    return [(number, read(item)) for number, item in items]


def fact_of(raw: bytes) -> Fact | Rejected:
    if len(raw) > MAX_LINE:
        return Rejected(TooLarge(TOO_LARGE))
    try:
        return envelope.from_structured(raw.strip())
    except json_gate.BrokenJson as error:
        return Rejected(Invalid(str(error)))
