"""Heartbeats: a thread that renews the leases of open runs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

import httpx

from execution_ledger._forks import renewed_in_children
from execution_ledger._requests import Settings, document_of

log = logging.getLogger("execution_ledger")

PART = 3
"""A lease is renewed after a third of its time, so two heartbeats may be late or lost."""
SOON_SECONDS = 2.0
"""The pause after a failed heartbeat, and until the run's id is known, in seconds."""
ATTEMPT_SECONDS = 10.0

JOIN_SECONDS = 1.0
"""How long the end waits for a heartbeat in progress, in seconds."""

OVER = frozenset({404, 409})
"""The statuses for a run that has ended, or has no lease."""


class Leased(Protocol):
    """A run with a lease."""

    id: str | None

    @property
    def is_over(self) -> bool:
        """True if the run needs no more heartbeats."""
        ...


class Leases:
    """The leases of this process's open runs, renewed by one thread.

    The thread runs whenever another thread releases the interpreter lock, as Python code does every
    few milliseconds. Code in C may hold the lock for longer. If it does so for two thirds of a
    lease, the run fails: choose a lease of more than one and a half times that time.
    """

    def __init__(self, settings: Settings, transport: httpx.MockTransport | None) -> None:
        self._settings, self._transport = settings, transport
        self._parents: list[httpx.Client] = []
        self._http: httpx.Client | None = None
        self._begin()
        renewed_in_children(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[Leased, tuple[float, float]] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def after_fork(self) -> None:
        """Start anew in a child: the parent renews the leases of its own runs."""
        self._parents += [] if self._http is None else [self._http]
        self._http = None
        self._begin()

    def add(self, run: Leased, seconds: float) -> None:
        with self._changed:
            self._due[run] = (time.monotonic() + seconds / PART, seconds / PART)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop renewing all leases."""
        with self._changed:
            self._due.clear()
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def remove(self, run: Leased) -> None:
        """Stop renewing a run's lease."""
        with self._changed:
            self._due.pop(run, None)

    def _renew_all(self) -> None:
        while not self._is_closed:
            with self._changed:
                now = time.monotonic()
                first = min((due for due, _ in self._due.values()), default=None)
                if first is None or first > now:
                    self._changed.wait(None if first is None else first - now)
                    continue
                runs = [(run, each) for run, (due, each) in self._due.items() if due <= now]
            for run, interval in runs:
                self._renew(run, interval)
        if self._http is not None:
            self._http.close()

    def _renew(self, run: Leased, interval: float) -> None:
        next_in = min(interval, SOON_SECONDS)
        try:
            answer = self._sent(run.id, min(interval, ATTEMPT_SECONDS)) if run.id else None
            if answer is not None and answer.is_success and not answer.content:
                next_in = interval
        except Exception as error:
            log.debug("No heartbeat of %s arrived: %s", run.id, error)
            answer = None
        is_final = answer is None or answer.status_code not in OVER or document_of(answer) is None
        with self._changed:
            if run.is_over or not is_final:
                self._due.pop(run, None)
            elif run in self._due:
                self._due[run] = (time.monotonic() + next_in, interval)

    def _sent(self, run_id: str, timeout: float) -> httpx.Response:
        if self._http is None:
            self._http = httpx.Client(**self._settings.options(self._transport))
        return self._http.post(f"/v1/runs/{run_id}/heartbeat", timeout=timeout)
