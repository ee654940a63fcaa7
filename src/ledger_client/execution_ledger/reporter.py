"""Reporting in the background: facts go into a queue, and a thread sends them in their order."""

from __future__ import annotations

import atexit
import logging
import random
import sqlite3
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from execution_ledger._forks import renewed_in_children
from execution_ledger._requests import (
    CONNECT_SECONDS,
    ENCODER,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Settings,
    decoder,
    instant,
    problem_of_answer,
)
from execution_ledger._spool import Memory, Queue, Spool, SpoolFile, Waiting
from execution_ledger.errors import Problem, problem_of
from execution_ledger.types import FactItem

log = logging.getLogger("execution_ledger")

Refusal = Callable[[dict[str, Any], Problem], object]
"""Called with a fact that will not be recorded, and the reason, in the reporter's thread."""
Judged = Callable[[FactItem | None, Problem | None], object]
"""Called with the outcome of one fact, or with the reason why it will not be recorded."""

BATCH_PATH, FACTS_PATH = "/v1/facts/batch", "/v1/facts"
"""The route that takes an array of facts, and that of services that do not have it yet."""
MAX_FACTS, MAX_BYTES = 50_000, 64 * 1024 * 1024
"""So much waits in memory; a further fact is refused as ``queue_full``."""
BATCH_FACTS, BATCH_BYTES = 1_000, 7 * 1024 * 1024
"""A request has at most so much: the service takes 1,000 facts and 8 MiB."""
FACT_BYTES = 256 * 1024
"""The service takes no larger fact."""
ATTEMPT_SECONDS = 10.0
EXIT_SECONDS = 5.0
"""How long the end of the program waits for facts that are not judged."""
JOIN_SECONDS = 1.0
"""How long the end waits for an attempt that is under way."""
CREDENTIAL_SECONDS = 60.0
"""The pause after a refused credential, where a spool keeps the facts."""

TOLD_FAILURES = 2
"""So many failures in a row are told: one may be a connection that the service closed idle."""

HELD = frozenset({408, 429, 503})
"""The statuses of an item that was not judged: it is sent again."""


class _Items(msgspec.Struct):
    data: list[FactItem]


class Result(NamedTuple):
    """A fact that will not be sent again: its outcome, or the reason."""

    fact: Waiting
    item: FactItem | None
    problem: Problem | None


class _Flush:
    """A caller that waits for the facts up to a number."""

    def __init__(self, last: int, left: int) -> None:
        self.last, self.left = last, left


class Reporter:
    """A queue of facts and the thread that sends them.

    * ``put`` returns at once and never raises.
    * Facts are sent in the order of ``put``, one batch after the other, each until it is judged.
      A fact that is sent again has the same bytes and the same id, so it is recorded once.
    * At most 50,000 facts or 64 MiB wait in memory. A further fact is refused: ``on_refused`` is
      called with it, and the log says so. With a spool, facts go to its file within moments, and
      memory is full only if the disk does not keep up.
    * A process that is killed loses at most what ``flush`` had not confirmed: without a spool all
      that waited; with a spool what was put in its last moments. A later process with the same
      directory sends what is left there, before its own facts.
    * A revoked or wrong token refuses the facts that are sent. With a spool they stay there.
    * The child of a fork begins with an empty queue: the parent sends what waits.
    """

    def __init__(
        self,
        settings: Settings,
        on_refused: Refusal | None,
        spool: str | Path | None,
        transport: httpx.MockTransport | None,
    ) -> None:
        self._settings, self._on_refused, self._transport = settings, on_refused, transport
        self._spool = None if spool is None else Spool(spool)
        self._parents: list[httpx.Client] = []
        """Connections of the processes from which this one was forked, which stay theirs."""
        self._begin()
        renewed_in_children(self)
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._memory = Memory(self._changed)
        self._judging: dict[int, Judged] = {}
        self._flushes: list[_Flush] = []
        self._threads: list[threading.Thread] = []
        self._http: httpx.Client | None = None
        self._numbers = count(1)
        self._last = self._settled = 0
        self._most, self._pause, self._path = BATCH_FACTS, FIRST_PAUSE, BATCH_PATH
        self._is_refusing = self._is_hurried = self._is_closed = False
        self._failures = 0

    def after_fork(self) -> None:
        """Begin anew in a child, and leave the parent's connections and files alone."""
        self._parents += [] if self._http is None else [self._http]
        if self._spool is not None:
            self._spool.after_fork()
        self._begin()

    # The caller's side.

    def report(
        self,
        kind: str | Mapping[str, Any],
        data: Mapping[str, Any] | None,
        attributes: Mapping[str, Any],
    ) -> None:
        """Queue a fact. Never raises: a fact that is no JSON is told as refused."""
        fact: dict[str, Any] = {"type": kind, "data": data or {}}
        try:
            fact = fact if isinstance(kind, str) else dict(kind)
            fact |= {name: value for name, value in attributes.items() if value is not None}
            text = encoded(fact, self._settings.source)
        except Exception as error:
            self._tell([(fact, Problem(0, "not_sendable", f"The fact cannot be sent: {error}"))])
            return
        self.put(text)

    def report_run(
        self, kind: str, data: dict[str, Any], payload: str, judged: Judged | None
    ) -> None:
        """Queue a fact about a run. A payload that cannot be sent is left out: the rest counts."""
        fact = {"type": kind, "data": data}
        text, problem = b"", ""
        try:
            text = encoded(fact, self._settings.source)
        except Exception as error:
            problem = str(error)
        if len(text) > FACT_BYTES:
            problem = f"The fact has {len(text)} bytes."
        if problem:
            log.error("The %s of a run is not reported: %s", payload, problem)
            fact = {"type": kind, "data": {k: v for k, v in data.items() if k != payload}}
            text = encoded(fact, self._settings.source)
        self.put(text, judged)

    def put(self, text: bytes, judged: Judged | None = None) -> None:
        """Queue a fact in JSON. Never raises, and never waits for anything but memory."""
        try:
            with self._changed:
                was_refused = self._is_refusing
                is_full = self._memory.is_full(text, MAX_FACTS, MAX_BYTES)
                self._is_refusing = is_full or self._is_closed
                if not self._is_refusing:
                    self._start()
                    number = next(self._numbers)
                    if judged is not None and len(self._judging) < MAX_FACTS:
                        self._judging[number] = judged
                    self._memory.append(Waiting(number, text))
                    self._last = number
                    self._changed.notify_all()
                    return
                code = "closed" if self._is_closed else "queue_full"
            problem = Problem(0, code, "The client takes no more facts for the ledger.")
            if judged is not None:
                judged(None, problem)
            self._tell([(msgspec.json.decode(text), problem)], is_logged=not was_refused)
        except Exception:
            log.exception("A fact could not be queued for the ledger.")

    def _tell(
        self, refused: list[tuple[dict[str, Any], Problem]], *, is_logged: bool = True
    ) -> None:
        """Tell of facts that will not be recorded. Never raises.

        The log names the first fact of each reason: a thousand at once would fill it.
        """
        counts = Counter(problem.code for _, problem in refused)
        for fact, problem in refused:
            if is_logged and (alike := counts.pop(problem.code, 0)):
                names = (fact.get("type"), fact.get("subject") or fact.get("id"))
                more = f" ({alike - 1} more were refused likewise)" if alike > 1 else ""
                log.error("The ledger has refused %s about %s: %s%s", *names, problem, more)
            if self._on_refused is not None:
                try:
                    self._on_refused(fact, problem)
                except Exception:
                    log.exception("on_refused has failed.")

    def flush(self, timeout: float) -> bool:
        """Wait until the service has judged all facts put before, for at most so many seconds.

        Returns whether it has. A fact that was judged is recorded, or was told as refused.
        """
        if threading.current_thread() in self._threads:
            return False
        with self._changed:
            flush = _Flush(self._last, self.waiting)
            self._flushes.append(flush)
            self._is_hurried = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: flush.left <= 0, timeout)
            finally:
                self._flushes.remove(flush)

    def close(self, timeout: float) -> bool:
        """Flush, and end the threads; return as ``flush``."""
        is_flushed = self.flush(timeout)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        if self._spool is not None:
            self._spool.close()
        atexit.unregister(self._at_exit)
        if not is_flushed:
            place = "are lost" if self._spool is None else "stay in the spool"
            log.error("%d facts were not judged by the ledger, and %s.", self.waiting, place)
        return is_flushed

    @property
    def waiting(self) -> int:
        """The number of this process's facts that are not judged."""
        return self._last - self._settled

    def _at_exit(self) -> None:
        if self._threads:
            self.close(EXIT_SECONDS)

    def _start(self) -> None:
        if self._threads:
            return
        works = [self._send_all] if self._spool is None else [self._keep_all, self._send_all]
        for work in works:
            thread = threading.Thread(target=work, name="execution-ledger", daemon=True)
            thread.start()
            self._threads.append(thread)
        # A child of multiprocessing ends without atexit, by finalizers of its own.
        children = sys.modules.get("multiprocessing.util")
        if children is not None and sys.modules["multiprocessing"].parent_process() is not None:
            children.Finalize(None, self._at_exit, exitpriority=100)

    # The threads' side.

    def _keep_all(self) -> None:
        """Move what is put into the spool, until the reporter is closed."""
        assert self._spool is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._memory) or self._is_closed)
                facts = self._memory.first(MAX_FACTS)
            if not facts:
                return
            try:
                self._spool.own().put(facts)
                results = []
            except (OSError, sqlite3.Error) as error:
                problem = Problem(0, "spool_failed", f"The spool takes no facts: {error}")
                results = [Result(fact, None, problem) for fact in facts]
            self._settle(results)  # before the facts leave memory: the sender never looks for them
            with self._changed:
                self._memory.remove(facts)
                self._changed.notify_all()

    def _send_all(self) -> None:
        """Send what waits, until the reporter is closed."""
        timeout = httpx.Timeout(ATTEMPT_SECONDS, connect=CONNECT_SECONDS)
        options = self._settings.options(self._transport)
        with httpx.Client(**options, timeout=timeout) as self._http:
            if self._spool is not None:
                for left in self._spool.left():
                    self._send_left(left)
            while self._has_work():
                try:
                    self._round(self._memory if self._spool is None else self._spool.own())
                except Exception:
                    log.exception("Facts cannot be sent to the ledger; they wait.")
                    self._rest(0.0)

    def _send_left(self, left: SpoolFile) -> None:
        """Send the facts that another process has left."""
        try:
            while not self._is_closed and self._round(left, is_own=False):
                pass
        except Exception:
            log.exception("The facts in %s cannot be sent.", left.path)
        finally:
            left.close()

    def _has_work(self) -> bool:
        """Wait until a fact can be sent; False once the reporter is closed."""

        def found() -> bool:
            elsewhere = 0 if self._spool is None else len(self._memory)
            return self._is_closed or self.waiting > elsewhere

        with self._changed:
            self._changed.wait_for(found)
            return not self._is_closed

    def _round(self, queue: Queue, *, is_own: bool = True) -> bool:
        """Send the first facts of a queue once; return whether there were any."""
        batch = _within(queue.first(self._most))
        if not batch:
            return False
        assert self._http is not None
        body = b"[" + b",".join(fact.text for fact in batch) + b"]"
        json = {"content-type": "application/json"}
        are_held = False
        try:
            answer = self._http.post(self._path, content=body, headers=json)
            if answer.is_success:
                items = decoder(_Items).decode(answer.content).data
                results = _judged(batch, items)
                are_held = len(results) < len(batch)
            else:
                results = self._refused(batch, problem_of_answer(answer))
        except (httpx.TransportError, msgspec.DecodeError, ValueError) as error:
            results = []
            self._wait_for_service(error, 0.0)
        if results:
            self._pause = FIRST_PAUSE
            if self._failures >= TOLD_FAILURES:
                log.info("The ledger takes facts again.")
            self._failures = 0
            queue.remove([result.fact for result in results])
            self._settle(results, is_own=is_own)
        if are_held:
            self._rest(0.0)
        return True

    def _refused(self, batch: list[Waiting], problem: Problem) -> list[Result]:
        """The results of an answer that refuses a whole request."""
        if problem.status in (400, 413, 422):
            if len(batch) == 1:
                self._most = BATCH_FACTS
                return [Result(batch[0], None, problem)]
            self._most = len(batch) // 2  # to find the fact that is at fault
            return []
        if problem.status in (404, 405) and self._path == BATCH_PATH:
            self._path = FACTS_PATH
            return []
        if problem.status in (401, 403):
            if self._spool is None:
                return [Result(fact, None, problem) for fact in batch]
            log.error("The ledger refuses the token; %d facts wait: %s", self.waiting, problem)
            self._rest(CREDENTIAL_SECONDS)
        else:
            self._wait_for_service(problem, problem.retry_after or 0.0)
        return []

    def _wait_for_service(self, error: Exception, asked: float) -> None:
        """Rest; the log tells once that facts wait."""
        self._failures += 1
        if self._failures == TOLD_FAILURES:
            log.warning("The ledger takes no facts, and %d wait: %s", self.waiting, error)
        self._rest(asked)

    def _rest(self, asked: float) -> None:
        """Wait until the next attempt; a flush or the end of the program ends the first pause."""
        seconds = max(asked, self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        with self._changed:
            self._changed.wait_for(lambda: self._is_hurried or self._is_closed, seconds)
            self._is_hurried = False

    def _settle(self, results: Sequence[Result], *, is_own: bool = True) -> None:
        """Tell the outcomes, then those who wait for them."""
        for fact, item, problem in results:
            judged = self._judging.pop(fact.number, None) if is_own else None
            if judged is not None:
                judged(item, problem)
        refused = [each for each in results if each.problem is not None]
        self._tell([(msgspec.json.decode(f.text), p) for f, _, p in refused if p is not None])
        if results and is_own:
            with self._changed:
                self._settled += len(results)
                for flush in self._flushes:
                    flush.left -= sum(each.fact.number <= flush.last for each in results)
                self._changed.notify_all()


def encoded(fact: Mapping[str, Any], source: str) -> bytes:
    """A CloudEvent in JSON, with a source, and with an id and a time of now if it has no id.

    With an id of the caller's the fact may be made again later: with another time it would conflict
    with the first.
    """
    made = {"source": source} | {k: v for k, v in fact.items() if v is not None}
    if "id" not in made:
        made = {"id": uuid.uuid4().hex, "time": datetime.now(UTC)} | made
    if "time" in made:
        made["time"] = instant(made["time"])
    return ENCODER.encode({"specversion": "1.0"} | made)


def _judged(batch: list[Waiting], items: list[FactItem]) -> list[Result]:
    """The facts of a batch that the service has judged."""
    results = []
    for fact, item in zip(batch, items, strict=True):
        error = None if item.error is None else msgspec.to_builtins(item.error)
        if error is None or error["status"] not in HELD:
            problem = None if error is None else problem_of(error["status"], error)
            results.append(Result(fact, item, problem))
    return results


def _within(facts: list[Waiting]) -> list[Waiting]:
    """The first facts that fit into one request."""
    size = 0
    for number, fact in enumerate(facts):
        size += len(fact.text) + 1
        if size > BATCH_BYTES and number:
            return facts[:number]
    return facts
