"""Threads that report facts through every kill of the service, and count all answers."""

import contextlib
import itertools
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.facts import LINE, fact
from tests.support.served import Served, post
from tests.support.views import query, until

SOURCE = "/load"

LONGEST_SECONDS = 10.0
"""No request may take longer, whichever process is killed (contract, Health)."""


class Load:
    """Threads that report check-ins of one hour each, one after the other, on a connection each."""

    def __init__(
        self,
        served: Served,
        token: str,
        threads: int = 4,
        *,
        reads: bool = True,
        name: str = "load",
    ) -> None:
        self.served, self._token, self._name = served, token, name
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._reads = reads
        self._threads = [threading.Thread(target=self._report) for _ in range(threads)]
        self.acknowledged: dict[str, int] = {}
        """Fact id → the position that the answer named."""
        self.unanswered: set[str] = set()
        """The ids of facts that had no answer, or a 503."""
        self.statuses: Counter[int] = Counter()
        self.without_retry_after = 0
        self.timed_out = 0
        """Requests that had no answer in ``LONGEST_SECONDS``."""
        self.outages = 0
        """Requests whose connection broke."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every reporter finish its present request."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a request hangs"

    def await_more(self, count: int, seconds: float = 30.0) -> None:
        """Wait until ``count`` more facts have been acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, f"{count} more facts", seconds)

    def _report(self) -> None:
        with self.served.client(self._token, timeout=LONGEST_SECONDS) as client:
            while not self._stopping.is_set():
                name = f"{self._name}-{next(self._numbers)}"
                answer = self._send(client, name)
                if answer is None or answer.status_code == 503:
                    self._stopping.wait(0.02)
                if self._reads:
                    self._ask(lambda: client.get(f"/v1/execution/{LINE}"))

    def _send(self, client: httpx.Client, name: str) -> httpx.Response | None:
        self.unanswered.add(name)
        answer = self._ask(lambda: post(client, checked_in(name)))
        if answer is not None and answer.status_code in (200, 201):
            self.acknowledged[name] = answer.json()["data"]["position"]
            self.unanswered.discard(name)
        return answer

    def _ask(self, request: Any) -> httpx.Response | None:
        try:
            answer: httpx.Response = request()
        except httpx.TimeoutException:
            self.timed_out += 1
            return None
        except httpx.TransportError:
            self.outages += 1
            return None
        self.statuses[answer.status_code] += 1
        if answer.status_code == 503 and "retry-after" not in answer.headers:
            self.without_retry_after += 1
        return answer

    def send_again(self) -> Counter[str]:
        """Report all facts again; each acknowledged one must be a duplicate at its position."""
        outcomes: Counter[str] = Counter()
        with self.served.client(self._token) as client:
            for name in [*self.acknowledged, *self.unanswered]:
                item = send_until_answered(client, name)
                outcomes[item["outcome"]] += 1
                if name in self.acknowledged:
                    assert item["outcome"] == "duplicate", name
                    assert item["position"] == self.acknowledged[name]
                self.acknowledged[name] = item["position"]
        self.unanswered.clear()
        return outcomes


def send_until_answered(client: httpx.Client, name: str) -> dict[str, Any]:
    """Send a fact again until the answer is not a 503; return the outcome."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers[:] = [post(client, checked_in(name))]
        return answers[0].status_code != 503

    until(answered, "an answer")
    item: dict[str, Any] = answers[0].json()["data"]
    return item


def checked_in(name: str) -> dict[str, Any]:
    """A check-in of one hour under a fact id."""
    return fact("execution.checked_in", LINE, {"hours": 1}, id=name, source=SOURCE)


def recorded(conninfo: str) -> list[str]:
    """The ids of the load's facts in the log, in order."""
    statement = """SELECT convert_from(state, 'UTF8')::jsonb #>> '{8,1}'
        FROM ledger.ledger_events WHERE topic = 'execution.checked_in/1'
        ORDER BY notification_id"""
    return [row[0] for row in query(conninfo, statement)]


def total_hours(client: httpx.Client) -> float:
    """The view's total of hours, once the service answers."""
    answer: list[httpx.Response] = []

    def read() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer[:] = [client.get(f"/v1/execution/{LINE}")]
        return bool(answer) and answer[0].status_code == 200

    until(read, "an answer")
    return float(answer[0].json()["data"]["metrics"]["hours_total"])
