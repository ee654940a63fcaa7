"""Repeated faults: each is logged at once, then at most once a minute, and when it is over.

While the database is away, every loop and every request meets the same fault again and again, and
thousands of equal lines hide the line that matters. Two faults are the same if logger, message and
the names in the message are equal; names have no spaces. Errors, sentences and numbers in the
message may vary: the log has the latest ones. Each process counts its own faults. A process that
replaces another one knows what that one logged.

    05:10:03 append failed: the connection is lost
    05:11:03 append failed: connection refused (repetitions since 05:10:03: 58)
    05:12:03 over since 05:11:40: append failed: connection refused (times since 05:10:03: 96)
"""

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from ctypes import c_longlong
from multiprocessing.sharedctypes import RawArray

from ledger.engine.telemetry.lines import message_of

TELL_SECONDS = 60.0
"""The least time between two lines about the same fault."""

_LOOK_SECONDS = 1.0
"""How often the thread checks for faults to log, while there are any."""

_MOST = 1_000
"""The most faults that are remembered. Messages with a name of their own each, such as the id of a
request, would fill the memory otherwise."""

_PLACES = 1024
"""The faults of all processes whose last lines are remembered for their successors."""

_Key = tuple[str, ...]


class _Fault:
    """A fault that was logged within the last minute, or has happened again since."""

    def __init__(self, record: logging.LogRecord, told_at: float) -> None:
        self.logger, self.level = record.name, record.levelno
        # The text, since the record's error would keep every object of its frames in memory.
        self.message = message_of(record)
        self.since = self.last = self.told = record.created
        """When the fault first and last happened, and was last logged, by the wall clock."""
        self.told_at = told_at
        """When the fault was last logged, by the monotonic clock."""
        self.times, self.more = 1, 0
        """How often the fault has happened, and how often since its last line."""
        self.is_over = False

    def happen(self, record: logging.LogRecord) -> None:
        """Count a repetition. A fault that was logged as over begins anew."""
        if self.is_over:
            self.since, self.times, self.is_over = record.created, 0, False
        self.message, self.last = message_of(record), record.created
        self.times += 1
        self.more += 1


class Repetitions(logging.Handler):
    """Passes records on to another handler, and holds back repetitions of a fault.

    ``start`` begins the thread that tells what is held back. A process that forks starts it in its
    children; itself it calls ``tell_due`` now and then. Parent and children share the memory of
    last lines, so that a child that dies again and again does not tell the same at each start.
    """

    def __init__(
        self,
        out: logging.Handler,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = TELL_SECONDS,
    ) -> None:
        super().__init__()
        self._out, self._clock, self._seconds = out, clock, seconds
        self._faults: dict[_Key, _Fault] = {}
        self._has_faults = threading.Event()
        # A hash of process and fault, and the instant of its last line. Without a lock: a place
        # that two processes write at once can only cause one line more, or one later.
        self._board = RawArray(c_longlong, 2 * _PLACES)

    def inherit(self) -> None:
        """In a child: forget the faults of the parent process, but not the last lines."""
        self._faults, self._has_faults = {}, threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._tell, name="repetitions", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        key = _key_of(record)
        fault = self._faults.get(key)
        if fault is None:
            told_at = self._told_by_predecessor(key)
            if len(self._faults) < _MOST:
                self._begin(key, record, told_at)
            if told_at is None:
                self._out.handle(record)
            return
        fault.happen(record)
        if self._clock() - fault.told_at >= self._seconds:
            self._tell_again(key, fault)

    def _begin(self, key: _Key, record: logging.LogRecord, told_at: float | None) -> None:
        now = self._clock()
        fault = self._faults[key] = _Fault(record, now if told_at is None else told_at)
        if told_at is None:
            self._note(key, now)
        else:
            fault.told -= now - told_at
            fault.more = 1
        self._has_faults.set()

    def _told_by_predecessor(self, key: _Key) -> float | None:
        """When the fault was last told by an earlier process of this name, if within a minute."""
        name, place = _place_of(key)
        if self._board[place] != name:
            return None
        told_at = self._board[place + 1] / 1e9
        return told_at if 0 <= self._clock() - told_at < self._seconds else None

    def _note(self, key: _Key, now: float) -> None:
        name, place = _place_of(key)
        self._board[place], self._board[place + 1] = name, int(now * 1e9)

    def tell_due(self) -> None:
        """Tell the faults whose last line is a minute old: repetitions, or that it is over."""
        self.acquire()
        try:
            now = self._clock()
            for key, fault in [*self._faults.items()]:
                if now - fault.told_at < self._seconds:
                    continue
                if fault.more:
                    self._tell_again(key, fault)
                elif fault.times > 1 and not fault.is_over:
                    self._tell_over(key, fault)
                else:
                    del self._faults[key]
        finally:
            self.release()

    def _tell(self) -> None:
        never = threading.Event()
        while self._has_faults.wait():
            never.wait(_LOOK_SECONDS)
            self.tell_due()
            if not self._faults:
                self._has_faults.clear()

    def _tell_again(self, key: _Key, fault: _Fault) -> None:
        again = f"(repetitions since {_time_of(fault.told)}: {fault.more})"
        self._say(key, fault, fault.level, f"{fault.message} {again}")
        fault.more = 0

    def _tell_over(self, key: _Key, fault: _Fault) -> None:
        span = f"(times since {_time_of(fault.since)}: {fault.times})"
        message = f"over since {_time_of(fault.last)}: {fault.message} {span}"
        self._say(key, fault, logging.INFO, message)
        fault.is_over = True

    def _say(self, key: _Key, fault: _Fault, level: int, message: str) -> None:
        fault.told_at, fault.told = self._clock(), time.time()
        self._note(key, fault.told_at)
        self._out.handle(logging.LogRecord(fault.logger, level, "", 0, message, (), None))


def _key_of(record: logging.LogRecord) -> _Key:
    values = record.args if isinstance(record.args, tuple) else ()
    names = (value for value in values if isinstance(value, str) and " " not in value)
    return record.name, str(record.msg), *names


def _place_of(key: _Key) -> tuple[int, int]:
    """The fault of this process as a number, and its place. (Forks hash texts alike.)"""
    name = hash((multiprocessing.current_process().name, key))
    return name, name % _PLACES * 2


def _time_of(instant: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(instant))
