"""Reporting in the background: facts go into a queue, and a thread sends them in order."""

from __future__ import annotations

import atexit
import logging
import random
import sqlite3
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec

from execution_ledger._forks import ended_with_children, renewed_in_children
from execution_ledger._outcomes import Flushed, Outcomes
from execution_ledger._refusals import Refusal, Refusals
from execution_ledger._requests import (
    CONNECT_SECONDS,
    ENCODER,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Settings,
    instant,
)
from execution_ledger._sending import Result, Sender
from execution_ledger._spool import Memory, Queue, Spool, SpoolFile, Waiting
from execution_ledger._wait import DONE, Changed
from execution_ledger.errors import Problem, UnexpectedAnswer
from execution_ledger.types import FactItem

log = logging.getLogger("execution_ledger")

Judged = Callable[[FactItem | None, Problem | None], object]
"""Called with the outcome of a fact, or with the reason why it will not be recorded."""

MAX_FACTS, MAX_BYTES = 50_000, 64 * 1024 * 1024
"""The limits of facts in memory. A further fact is refused as ``queue_full``."""
FACT_BYTES = 256 * 1024
"""The largest fact that the service takes."""
ATTEMPT_SECONDS = 10.0
EXIT_SECONDS = 5.0
"""How long the end of the program waits for outcomes, in seconds."""
JOIN_SECONDS = 1.0
"""How long the end waits for an attempt in progress, in seconds."""
CREDENTIAL_SECONDS = 60.0
"""The pause after a refused credential if a spool stores the facts, in seconds."""

LOGGED_FAILURES = 2
"""How many failures in a row are logged. A single one may be an idle connection that was closed."""


class _Offer:
    """A fact that waits for room in the queue."""

    def __init__(self, text: bytes, judged: Judged | None) -> None:
        self.text, self.judged = text, judged
        self.number = 0
        """Its place in the order of facts, once it waits for room."""
        self.code: str | None = None
        """Why the queue does not take the fact; None once it has."""


class Reporter:
    """A queue of facts and the thread that sends them.

    * ``put`` returns at once and never raises.
    * Facts are sent in the order of ``put``, batch after batch, until each has an outcome. A
      repeated fact has the same bytes and the same id, so it is recorded once.
    * At most 50,000 facts or 64 MiB wait in memory. A further fact is refused: ``on_refused`` is
      called with it, and the log says so. With a spool, facts go to its file within moments, and
      memory fills only if the disk is too slow.
    * A ``flush`` counts the outcomes since the last one that had returned before it began.
    * A killed process loses at most what ``flush`` had not confirmed. Without a spool, that is all
      that waited; with a spool, the facts of its last moments. A later process with the same
      directory sends the remaining facts before its own.
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
        self._settings, self._transport = settings, transport
        self._refusals = Refusals(on_refused)
        self._spool = None if spool is None else Spool(spool)
        self._parents: list[httpx.Client] = []
        """Connections of the processes from which this one was forked, which stay theirs."""
        self._begin()
        renewed_in_children(self)
        atexit.register(self.at_exit)
        if self._files():
            self._start()

    def _begin(self) -> None:
        self._changed = Changed()
        self._memory = Memory(self._changed)
        self._judging: dict[int, Judged] = {}
        self._threads: list[threading.Thread] = []
        self._http: httpx.Client | None = None
        self._sender = Sender()
        self._outcomes = Outcomes(self._changed)
        self._pause, self._failures = FIRST_PAUSE, 0
        self._is_hurried = self._is_closed = False
        self._left: list[SpoolFile] | None = None
        """The files of ended processes; None until they are looked for."""

    def after_fork(self) -> None:
        """Start anew in a child, without touching the parent's connections and files."""
        self._parents += [] if self._http is None else [self._http]
        if self._spool is not None:
            self._spool.after_fork()
        self._refusals.begin()
        self._begin()

    # The caller's side.

    def report(
        self,
        kind: str | Mapping[str, Any],
        data: Mapping[str, Any] | None,
        attributes: Mapping[str, Any],
        wait: bool | float,
    ) -> None:
        """Queue a fact. Never raises; a fact that is no JSON is refused."""
        text = self._made(kind, data, attributes)
        if text is not None:
            self.put(text, wait=wait)

    def report_async(
        self,
        kind: str | Mapping[str, Any],
        data: Mapping[str, Any] | None,
        attributes: Mapping[str, Any],
        wait: bool | float,
    ) -> Awaitable[None]:
        """Queue a fact as ``report`` does: now if there is room, else when awaited."""
        text = self._made(kind, data, attributes)
        if text is None:
            return DONE
        offer = _Offer(text, None)
        if not self._accepts(offer) and wait and not self._refusals.is_in_callback:
            return self._accepted(offer, None if wait is True else float(wait))
        self._refuse(offer)
        return DONE

    async def _accepted(self, offer: _Offer, seconds: float | None) -> None:
        with self._offering(offer):
            await self._changed.wait_for_async(lambda: self._accepts(offer), seconds)
        self._refuse(offer)

    def _made(
        self,
        kind: str | Mapping[str, Any],
        data: Mapping[str, Any] | None,
        attributes: Mapping[str, Any],
    ) -> bytes | None:
        """Encode a fact as JSON; None if it cannot be sent and is therefore refused."""
        fact: dict[str, Any] = {"type": kind, "data": data or {}}
        try:
            fact = fact if isinstance(kind, str) else dict(kind)
            fact |= {name: value for name, value in attributes.items() if value is not None}
            return encoded(fact, self._settings.source)
        except Exception as error:
            problem = Problem(0, "not_sendable", f"The fact cannot be sent: {error}")
            self._outcomes.refuse()
            self._refusals.tell([(fact, problem)])
            return None

    def report_run(
        self, kind: str, data: dict[str, Any], payload: str, judged: Judged | None
    ) -> None:
        """Queue a fact about a run. If its payload cannot be sent, queue the rest."""
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

    def put(self, text: bytes, judged: Judged | None = None, wait: bool | float = False) -> None:
        """Queue a fact in JSON. Never raises. Only with ``wait`` it waits for room.

        A number is the most seconds to wait; True means without limit.
        """
        offer = _Offer(text, judged)
        if not self._accepts(offer) and wait and not self._refusals.is_in_callback:
            seconds = None if wait is True else float(wait)
            with self._offering(offer), self._changed:
                self._changed.wait_for(lambda: self._accepts(offer), seconds)
        self._refuse(offer)

    @contextmanager
    def _offering(self, offer: _Offer) -> Iterator[None]:
        """Count a fact that waits for room. If the wait breaks off, count it as refused."""
        offer.number = self._outcomes.offer()
        try:
            yield
        except BaseException:  # such as the cancellation of a task
            if offer.code is not None:
                self._settle([Result(Waiting(offer.number, offer.text), None, None)])
            raise

    def _accepts(self, offer: _Offer) -> bool:
        """Queue a fact, or note why not. Returns False if there may be room later."""
        text = offer.text
        with self._changed:
            if self._is_closed:
                offer.code = "closed"
            elif self._memory.is_full(text, MAX_FACTS, MAX_BYTES):
                offer.code = "queue_full"
                return len(text) > MAX_BYTES
            else:
                try:
                    self._start()
                except RuntimeError:  # no thread can be started
                    log.exception("A fact cannot be sent to the ledger.")
                    offer.code = "not_sendable"
                    return True
                number = offer.number or self._outcomes.offer()
                if offer.judged is not None and len(self._judging) < MAX_FACTS:
                    self._judging[number] = offer.judged
                self._memory.append(Waiting(number, text))
                self._outcomes.offered.remove(number)
                offer.code = None
                self._changed.notify_all()
            return True

    def _refuse(self, offer: _Offer) -> None:
        """Report that a fact is refused, unless it is in the queue."""
        if offer.code is None:
            return
        problem = Problem(0, offer.code, "The client takes no more facts for the ledger.")
        if offer.judged is not None:
            offer.judged(None, problem)
        number = offer.number or self._outcomes.offer()
        self._settle([Result(Waiting(number, offer.text), None, problem)])

    def flush(self, timeout: float, *, counts: bool = True) -> Flushed:
        """Wait for at most ``timeout`` seconds until all facts put before have an outcome.

        When it returns, ``on_refused`` has been called for each refused fact. Within ``on_refused``
        it waits for nothing. Without ``counts``, the next flush returns the same outcomes again.
        """
        self._hurry()
        seconds = 0.0 if self._refusals.is_in_callback else timeout
        return self._outcomes.flush(seconds, counts)

    async def flush_async(self, timeout: float) -> Flushed:
        """Wait as ``flush`` does, without blocking the event loop."""
        self._hurry()
        return await self._outcomes.flush_async(timeout)

    def _hurry(self) -> None:
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()

    def close(self, timeout: float) -> Flushed:
        """Flush, and end the threads; return as ``flush``."""
        flushed = self.flush(timeout)
        self.end()
        return flushed

    def end(self) -> None:
        """End the threads. Facts without an outcome are lost, or stay in the spool."""
        with self._changed:
            was_closed = self._is_closed
            self._is_closed = self._outcomes.are_final = True
            self._changed.notify_all()
        if was_closed:
            return
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)
        if self._spool is not None:
            self._spool.close()
        atexit.unregister(self.at_exit)
        self._tell_lost()

    def _tell_lost(self) -> None:
        if queued := self._outcomes.queued:
            fate = "are lost" if self._spool is None else "stay in the spool"
            log.error("%d facts were not judged by the ledger, and %s.", queued, fate)
        self._refusals.tell_more()

    @property
    def waiting(self) -> int:
        """The number of this process's facts without an outcome."""
        return self._outcomes.waiting

    @property
    def refused(self) -> int:
        """The number of this process's facts that were refused."""
        return self._outcomes.refused

    def at_exit(self) -> None:
        """Flush for a limited time, and end."""
        if self._threads:
            self.close(EXIT_SECONDS)

    def terminate(self, seconds: float) -> None:
        """Flush within these seconds: then a signal ends the process."""
        self._hurry()
        self._outcomes.flush(seconds, counts=True)
        self._tell_lost()

    def _start(self) -> None:
        if self._threads:
            return
        self._files()
        works = [self._send_all] if self._spool is None else [self._keep_all, self._send_all]
        for work in works:
            thread = threading.Thread(target=work, name="execution-ledger", daemon=True)
            thread.start()
            self._threads.append(thread)
        ended_with_children(self)

    def _files(self) -> list[SpoolFile]:
        """The spool files of processes that have ended. This process takes them over."""
        if self._left is None:
            self._left = [] if self._spool is None else self._spool.adopt()
            self._outcomes.adopt(sum(file.left for file in self._left))
        return self._left

    # The threads' side.

    def _keep_all(self) -> None:
        """Move facts into the spool, until the reporter is closed."""
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
            self._settle(results)  # while memory has the facts: ``_has_work`` counts both
            with self._changed:
                self._memory.remove(facts)
                self._changed.notify_all()

    def _send_all(self) -> None:
        """Send the facts that wait, until the reporter is closed."""
        timeout = httpx.Timeout(ATTEMPT_SECONDS, connect=CONNECT_SECONDS)
        options = self._settings.options(self._transport)
        with httpx.Client(**options, timeout=timeout) as self._http:
            for left in self._files():
                self._send_left(left)
            while self._has_work():
                try:
                    self._round(self._memory if self._spool is None else self._spool.own())
                except Exception:
                    log.exception("Facts cannot be sent to the ledger; they wait.")
                    self._rest(0.0)

    def _send_left(self, left: SpoolFile) -> None:
        """Send the facts that another process left."""
        try:
            while not self._is_closed and self._round(left, are_left=True):
                pass
        except Exception:
            log.exception("The facts in %s cannot be sent.", left.path)
            self._outcomes.adopt(-left.left)
        finally:
            left.close()

    def _has_work(self) -> bool:
        """Wait until a fact can be sent; return False once the reporter is closed."""

        def found() -> bool:
            elsewhere = 0 if self._spool is None else len(self._memory)
            return self._is_closed or self._outcomes.queued > elsewhere

        with self._changed:
            self._changed.wait_for(found)
            return not self._is_closed

    def _round(self, queue: Queue, *, are_left: bool = False) -> bool:
        """Send the first facts of a queue once; return True if there were any."""
        batch = self._sender.batch(queue)
        if not batch:
            return False
        assert self._http is not None
        try:
            results, held = self._sender.send(self._http, batch)
        except Problem as problem:
            results, held = self._unjudged(batch, problem), None
        except (httpx.TransportError, UnexpectedAnswer) as error:
            self._wait_for_service(error, 0.0)
            return True
        if results:
            self._pause = FIRST_PAUSE
            if self._failures >= LOGGED_FAILURES:
                log.info("The ledger takes facts again.")
            self._failures = 0
            queue.remove([result.fact for result in results])
            self._settle(results, are_left=are_left)
        if held is not None:
            self._rest(0.0)
        return True

    def _unjudged(self, batch: list[Waiting], problem: Problem) -> list[Result]:
        """The results of an answer that refuses all facts for now."""
        if problem.status not in (401, 403):
            self._wait_for_service(problem, problem.retry_after or 0.0)
        elif self._spool is None:
            return [Result(fact, None, problem) for fact in batch]
        else:
            log.error("The ledger refuses the token; %d facts wait: %s", self.waiting, problem)
            self._rest(CREDENTIAL_SECONDS)
        return []

    def _wait_for_service(self, error: Exception, wait: float) -> None:
        """Wait. The log says once that facts wait."""
        self._failures += 1
        if self._failures == LOGGED_FAILURES:
            log.warning("The ledger takes no facts, and %d wait: %s", self.waiting, error)
        self._rest(wait)

    def _rest(self, wait: float) -> None:
        """Wait until the next attempt. A flush or the end of the program ends the first wait."""
        seconds = max(wait, self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        with self._changed:
            self._changed.wait_for(lambda: self._is_hurried or self._is_closed, seconds)
            self._is_hurried = False

    def _settle(self, results: Sequence[Result], *, are_left: bool = False) -> None:
        """Count the outcomes, call the functions that wait for them, then wake the flushes."""
        refused = [(msgspec.json.decode(f.text), p) for f, _, p in results if p is not None]
        with self._outcomes.counting(results, are_left):
            for fact, item, problem in results:
                judged = None if are_left else self._judging.pop(fact.number, None)
                if judged is not None:
                    judged(item, problem)
            self._refusals.tell(refused)


def encoded(fact: Mapping[str, Any], source: str) -> bytes:
    """Encode a CloudEvent as JSON, with a source. Without an id, add a new id and the present time.

    A caller's own id may be reported again later: with another time it would conflict with the
    first report.
    """
    made = {"source": source} | {k: v for k, v in fact.items() if v is not None}
    if "id" not in made:
        made = {"id": uuid.uuid4().hex, "time": datetime.now(UTC)} | made
    if "time" in made:
        made["time"] = instant(made["time"])
    return ENCODER.encode({"specversion": "1.0"} | made)
