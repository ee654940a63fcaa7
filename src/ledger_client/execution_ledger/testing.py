"""A ledger for your own tests: facts go to a list, and nothing leaves the process."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from execution_ledger._async.client import AsyncLedger
from execution_ledger._requests import VERSION
from execution_ledger._sync.client import Ledger

URL, TOKEN, SOURCE = "http://ledger.test", "elk_test", "/tests"


@dataclass
class FakeRun:
    """A run, from the facts that were reported about it."""

    name: str
    line: str | None
    status: str = "running"
    started: dict[str, Any] = field(default_factory=dict)
    """The data of the start."""
    ended: dict[str, Any] = field(default_factory=dict)
    """The data of the end."""


class Received:
    """The facts that a fake ledger has received, and its answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusals: list[tuple[str, str, str]] = []
        self._answers: dict[str, Any] = {}
        self.facts: dict[tuple[str, str], dict[str, Any]] = {}
        self.heartbeats: Counter[str] = Counter()

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of the client."""
        path = request.url.path
        with self._lock:
            if path.endswith("/heartbeat"):
                self.heartbeats[path.split("/")[3]] += 1
                return httpx.Response(204)
            if path in ("/v1/facts", "/v1/facts/batch") and request.method == "POST":
                return self._accepted(msgspec.json.decode(request.content))
            if path in self._answers:
                return httpx.Response(200, json=self._answers[path])
            if path == "/v1/credential":
                return httpx.Response(200, json={"data": _credential(request)})
        detail = f'The fake ledger has no answer: give one by answers("{path}", …).'
        return _refused(404, "not_found", detail)

    def _accepted(self, sent: Any) -> httpx.Response:
        if isinstance(sent, list):
            return httpx.Response(200, json={"data": [self._judged(fact) for fact in sent]})
        item = self._judged(sent)
        if item["error"] is not None:
            return _refused(409, item["error"]["code"], item["error"]["detail"])
        return httpx.Response(201, json={"data": item})

    def _judged(self, fact: dict[str, Any]) -> dict[str, Any]:
        identity, subject = (fact["source"], fact["id"]), fact.get("subject")
        item = {"index": 0, "id": fact["id"], "source": fact["source"], "event_ids": []}
        for pattern, code, detail in self._refusals:
            if re.fullmatch(pattern, fact["type"]):
                error = {"status": 409, "code": code, "detail": detail, "errors": []}
                return item | {"outcome": "refused", "subject": subject, "error": error}
        outcome = "duplicate" if identity in self.facts else "recorded"
        self.facts.setdefault(identity, fact)
        position = list(self.facts).index(identity) + 1
        if subject is None and fact["type"].startswith("run."):
            subject = f"RUN-26-{position:06}"
        return item | {
            "outcome": outcome,
            "subject": subject,
            "position": position,
            "event_ids": [f"EVT-26-{position:06}"],
            "error": None,
        }

    def refuse(self, pattern: str, code: str, detail: str) -> None:
        self._refusals.append((pattern, code, detail))

    def answers(self, path: str, body: Any) -> None:
        self._answers[path] = body

    def runs(self) -> Iterator[FakeRun]:
        runs: dict[tuple[str, int], FakeRun] = {}
        latest: dict[str, int] = {}
        for fact in self.facts.values():
            kind, data = fact["type"], fact.get("data") or {}
            name = data.get("external_id") or fact.get("subject") or fact["id"]
            attempt = data.get("attempt") or latest.get(name, 1)
            run = runs.get((name, attempt))
            if kind in ("run.requested", "run.started"):
                latest[name] = attempt
                runs[name, attempt] = FakeRun(name, data.get("service_line_id"), started=data)
            elif kind in ("run.completed", "run.failed", "run.cancelled") and run is not None:
                run.status, run.ended = kind.removeprefix("run."), data
        yield from runs.values()


class FakeLedger(Ledger):
    """A ``Ledger`` in memory. It accepts every fact, unless your ``refuse`` refuses it."""

    def __init__(self, *, source: str = SOURCE, **options: Any) -> None:
        self.received = Received()
        transport = httpx.MockTransport(self.received.answer)
        super().__init__(URL, TOKEN, source=source, transport=transport, **options)

    @property
    def facts(self) -> list[dict[str, Any]]:
        """The facts reported so far, each once, in order."""
        self._reporter.flush(10.0, counts=False)
        return list(self.received.facts.values())

    @property
    def reported_runs(self) -> list[FakeRun]:
        """The runs reported so far, in the order of their starts."""
        self._reporter.flush(10.0, counts=False)
        return list(self.received.runs())

    def refuse(
        self, pattern: str, code: str = "invalid_state", detail: str = "Refused by the test."
    ) -> None:
        """Refuse facts whose type matches a regular expression, with 409."""
        self.received.refuse(pattern, code, detail)

    def answers(self, path: str, body: Any) -> None:
        """Answer reads of a path such as ``/v1/execution/LIN-26-000001`` with this JSON."""
        self.received.answers(path, body)


class AsyncFakeLedger(AsyncLedger):
    """An ``AsyncLedger`` in memory, like ``FakeLedger``."""

    def __init__(self, *, source: str = SOURCE, **options: Any) -> None:
        self.received = Received()
        transport = httpx.MockTransport(self.received.answer)
        super().__init__(URL, TOKEN, source=source, transport=transport, **options)


def _credential(request: httpx.Request) -> dict[str, Any]:
    """A credential that may read and write. A line to check is ``running``."""
    line = request.url.params.get("service_line_id")
    scope = None if line is None else {"service_line_id": line, "state": "running"}
    credential = {"id": "KEY-26-000001", "type": "api_key", "permissions": ["read", "write"]}
    return credential | {"version": VERSION, "service_line": scope}


def _refused(status: int, code: str, detail: str) -> httpx.Response:
    problem = {"type": "about:blank", "title": code, "status": status, "detail": detail}
    return httpx.Response(status, json=problem | {"code": code, "request_id": None})
