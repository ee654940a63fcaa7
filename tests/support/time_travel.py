"""Random work, random questions about it, and an oracle that knows only the log's beginning.

A ``World`` works on a few lines of every execution model, in two organizations, over a year's end.
``Questions`` are GET requests of every kind that contract, Reading has. ``Prefix`` is a copy of the
log up to any position, with a service whose clock stands at any instant: the oracle for ``as_of``.
"""

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import psycopg

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.values.values import (
    CAUSES,
    EXECUTION_MODELS,
    MODELS_WITH_RUNS,
    PRODUCT_LINES,
    RUN_STATUSES,
    STATES,
    format_instant,
)
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.service import ALL, Clock
from tests.support.views import head, projecting

OTHER = "ORG-26-000002"
WORKSPACES = ("WS-26-000001", "WS-26-000002")
TAGS = ("PROJ-26-000001", "PROJ-26-000002", "PROJ-26-000003")
SIGNALS = ("sla_compliance", "delivery_velocity", "outcome_progress")
ACTORS = ("USR-26-000001", "AGT-26-000001")
KINDS = ("list", "summary", "detail", "runs", "run", "history", "timeline", "usage")

OF_A_LINE = ("", "/runs", "/history", "/timeline", "/usage")
"""The paths of a line's resources, after the line's own path."""

LINES = [f"LIN-26-{n:06d}" for n in range(1, 15)]
"""The last two belong to the other organization; their models go round."""

STEPS = (
    {"microseconds": 1}, {"milliseconds": 7}, {"seconds": 1}, {"minutes": 3}, {"minutes": 16},
    {"minutes": 40}, {"hours": 5}, {"days": 1},
)  # fmt: skip
"""The steps by which the clock moves."""


class Question(NamedTuple):
    """A GET request; ``by`` names the token that is sent."""

    kind: str
    path: str
    params: dict[str, str]
    by: str


class Answer(NamedTuple):
    """The parts of a response that must be the same for the same question."""

    status: int
    body: bytes
    tag: str | None
    position: str | None
    """None unless the status is 200."""


def answer_of(response: httpx.Response) -> Answer:
    headers, ok = response.headers, response.status_code == 200
    position = headers["ledger-position"] if ok else None
    return Answer(response.status_code, response.content, headers.get("etag"), position)


def exactly(instant: datetime) -> str:
    """An instant with all six digits, as a client would write it."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


def as_of(instant: datetime, **more: Any) -> dict[str, Any]:
    """The parameters of a read as of an instant."""
    return {"as_of": exactly(instant), **more}


class World:
    """Facts and commands that mostly make sense, sent through the service."""

    def __init__(self, edge: Edge, seed: int, erases: bool = False) -> None:
        self.edge, self.random, self._erases = edge, random.Random(seed), erases
        self.tokens = {
            "all": edge.token(*ALL),
            "narrow": edge.token("read", workspace_id=WORKSPACES[1]),
            "other": edge.token("read", organization_id=OTHER),
            "admin": edge.token("admin", organization_id=None),
        }
        self.lines: list[str] = []
        """The activated lines."""
        self.runs: list[str] = []
        self.head = 0
        """The log's last position."""
        self._check_ins: list[tuple[str, str]] = []
        self._run_numbers = itertools.count(900_001)
        self._record_numbers = itertools.count(100_001)

    def work(self) -> None:
        """A batch, perhaps a command and a sweep; a millisecond later all lies in the past."""
        size = self.random.choice([1, 2, 6, 14])
        events = [self._fact() | self._time() for _ in range(size)]
        if len(self.lines) < len(LINES):
            events.append(self._activation(LINES[len(self.lines)]))
        items = self.edge.send_batch(*events, token=self.tokens["admin"]).json()["data"]
        for event, item in zip(events, items, strict=True):
            if item["outcome"] == "recorded":
                self._note(event, item["subject"])
        if self.random.random() < 0.3:
            command = self.random.choice(["pause", "resume"])
            path = f"/v1/execution/{self.random.choice(LINES)}/{command}"
            self.edge.post(path, self.tokens["all"], json={"reason": "because"})
        if self._erases and self.runs:
            path = f"/v1/runs/{self.random.choice(self.runs[-8:])}/erase"
            self.edge.post(path, self.tokens["all"], json={"reason": "because"})
        if self.random.random() < 0.3:
            self.edge.run(self.edge.service.sweep())
        self.head = head(self.edge.conninfo)
        self.edge.clock.advance(milliseconds=1)

    def move(self) -> None:
        """Move the clock by a random step."""
        self.edge.clock.advance(**self.random.choice(STEPS))

    def _note(self, event: dict[str, Any], subject: str) -> None:
        if event["type"] == "service_line.activated":
            self.lines.append(subject)
        elif event["type"] in ("run.requested", "run.started") and subject not in self.runs:
            self.runs.append(subject)
        elif event["type"] == "execution.checked_in":
            self._check_ins.append((subject, event["id"]))

    def _time(self) -> dict[str, str]:
        if self.random.random() < 0.4:
            return {}
        ago = self.random.choice([-290, -30, 0, 1, 60, 899, 900, 5_000, 90_000, 700_000])
        return {"time": format_instant(self.edge.clock.now - timedelta(seconds=ago))}

    def _activation(self, line: str) -> dict[str, Any]:
        pick, number = self.random.choice, LINES.index(line)
        more: dict[str, Any] = {
            "organization_id": OTHER if number >= 12 else ORGANIZATION,
            "workspace_id": WORKSPACES[number // 2 % 2],
            "project_tags": self.random.sample(TAGS, self.random.randint(0, 2)),
            "resources": [{"id": "RES-1", "type": "person"}] if pick([True, False]) else [],
        }
        if pick([True, False]):
            record = next(self._record_numbers)
            more["execution_id"] = f"RUN-{pick([25, 26, 27])}-{record}"
        return activation(line, EXECUTION_MODELS[number % 6], pick(PRODUCT_LINES), **more)

    def _fact(self) -> dict[str, Any]:
        pick, line = self.random.choice, self.random.choice(self.lines or LINES)
        with_runs = pick(self.lines_with_runs())
        blocker, resource = {"blocker_id": pick("abc")}, {"id": pick(["RES-1", "RES-2"])}
        hours = {"hours": pick([0, 1.25, 7.5, None]), "resource_id": pick([None, "RES-1"])}
        signal = {"signal": pick(SIGNALS), "status": pick(["green", "amber", "red"])}
        started = {
            "service_line_id": with_runs,
            "triggered_by": {"type": "user", "actor_id": pick(ACTORS)},
            "input": {"n": self.random.randint(1, 9)},
        }
        run = pick(self.runs[-8:] or ["RUN-26-999999"])
        models = [{"model": m, "input": 9, "output": 5} for m in pick([["m"], ["m", "n"]])]
        used = pick([{"tokens_used": pick([0, 5, 70])}, {"token_usage": models}])
        ended = {"output": {"said": "so"}} | used
        failed = ended | {"error": {"code": "broken", "message": "It broke."}}
        new = pick([None, f"RUN-26-{next(self._run_numbers)}"])
        checked, check_in_id = pick(self._check_ins[-12:] or [(line, "none")])
        kinds: list[tuple[float, dict[str, Any]]] = [
            (1, self._activation(pick(LINES))),
            (2, fact("service_line.updated", line, {"project_tags": self.random.sample(TAGS, 1)})),
            (3, fact("service_line.paused", line, {"reason": "held"})),
            (5, fact("service_line.resumed", line)),
            (0.6, fact("service_line.closed", line)),
            (12, fact("execution.checked_in", line, hours)),
            (4, fact("execution.check_in_voided", checked, {"fact_id": check_in_id})),
            (5, fact("execution.blocked", line, blocker | {"cause": pick(CAUSES)})),
            (7, fact("execution.unblocked", line, blocker)),
            (2, fact("resource.allocated", line, resource | {"type": "t", "name": pick("nm")})),
            (2, fact("resource.released", line, resource)),
            (3, fact("health.signal_reported", line, signal)),
            (9, fact("run.requested", new, started)),
            (12, fact("run.started", new, started)),
            (4, fact("run.started", run, {"input": {"anew": True}})),
            (9, fact("run.completed", run, ended)),
            (5, fact("run.completed", pick(self.runs or [run]), ended)),
            (7, fact("run.failed", run, failed)),
            (2, fact("run.cancelled", run)),
            (4, fact("run.usage_corrected", run, used)),
        ]
        weights = [weight for weight, _ in kinds]
        return self.random.choices([event for _, event in kinds], weights)[0]

    def lines_with_runs(self) -> list[str]:
        models = {line: EXECUTION_MODELS[number % 6] for number, line in enumerate(LINES)}
        lines = [line for line in self.lines if models[line] in MODELS_WITH_RUNS]
        return lines or LINES


class Questions:
    """Random GET requests of every kind; cursors come from earlier answers (``follow_up``)."""

    def __init__(self, world: World) -> None:
        self._world, self._random = world, world.random
        self._further: list[Question] = []

    def draw(self, count: int) -> list[Question]:
        """Random requests, every kind in turn."""
        offset = self._random.randrange(len(KINDS))
        return [self._question(KINDS[(offset + n) % len(KINDS)]) for n in range(count)]

    def follow_up(self, question: Question, answer: Answer) -> Question | None:
        """If an answer has a next page, sometimes the question for that page."""
        if answer.status != 200 or question.kind not in ("list", "runs", "history"):
            return None
        cursor = json.loads(answer.body)["meta"]["cursor"]
        if cursor is None:
            return None
        further = question._replace(params=question.params | {"cursor": cursor})
        if self._random.random() < 0.2:
            self._further.append(further)
        return further if self._random.random() < 0.5 else None

    def _question(self, kind: str) -> Question:
        further = [question for question in self._further if question.kind == kind]
        if further and self._random.random() < 0.2:
            return self._random.choice(further)
        by = self._random.choice(["all"] * 5 + ["admin"] * 2 + ["narrow", "other"])
        lines = self._random.random() < 0.9 and self._world.lines
        line = self._random.choice(lines or LINES)
        if kind == "runs" and self._random.random() < 0.8:
            line = self._random.choice(self._world.lines_with_runs())
        run = self._random.choice(self._world.runs or ["RUN-26-999999"])
        paths = {"list": "/v1/execution", "summary": "/v1/execution/summary"}
        paths |= {"detail": f"/v1/execution/{line}", "run": f"/v1/runs/{run}"}
        path = paths.get(kind, f"/v1/execution/{line}/{kind}")
        return Question(kind, path, self._params(kind), by)

    def _params(self, kind: str) -> dict[str, str]:
        if kind in ("list", "summary"):
            params = self._some_of(
                workspace_id=(*WORKSPACES, "WS-26-000009"),
                state=STATES,
                execution_model=EXECUTION_MODELS,
                product_line=PRODUCT_LINES,
                project_tag=TAGS,
                blocked_cause=CAUSES,
                health=("green", "amber", "red", "none"),
            )
            if kind == "list" and self._random.random() < 0.4:
                params["sort"] = self._random.choice(["state_since", "health_score"])
        elif kind == "runs":
            params = self._some_of(status=RUN_STATUSES, triggered_by=ACTORS)
        else:
            params = {}
        if kind in ("runs", "timeline", "usage"):
            params |= self._range()
        if kind in ("list", "runs", "history") and self._random.random() < 0.7:
            params["limit"] = str(self._random.randint(1, 6))
        return params

    def _some_of(self, **words: tuple[str, ...]) -> dict[str, str]:
        """A random choice of filters, each with some of its words."""
        names = self._random.sample(list(words), self._random.choice([0, 0, 1, 1, 2]))
        return {
            name: ",".join(self._random.sample(words[name], self._random.randint(1, 3)))
            if len(words[name]) > 2
            else self._random.choice(words[name])
            for name in names
        }

    def _range(self) -> dict[str, str]:
        now = self._world.edge.clock.now
        seconds = sorted(self._random.choices([-3_600, 0, 1, 900, 50_000, 90_000, 900_000], k=2))
        start, end = (now - timedelta(seconds=s) for s in reversed(seconds))
        write = self._random.choice([format_instant, lambda at: at.date().isoformat()])
        params = {"from": write(start), "to": write(end)}
        for name in self._random.sample(["from", "to"], self._random.choice([0, 0, 1, 2])):
            del params[name]
        return params


def ask(world: World, question: Question, moment: datetime | None = None) -> Answer:
    """The answer of the service: now, once the views know all of the log, or as of an instant."""
    params = dict(question.params)
    headers = {"x-request-id": "the-same"}
    if moment is None:
        headers["ledger-min-position"] = str(world.head)
    else:
        params |= as_of(moment)
    token = world.tokens[question.by]
    return answer_of(world.edge.get(question.path, token, params=params, headers=headers))


# The statements that copy a part of the log, and the tables that are not derived from the log.
_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id, recorded_at
FROM ledger.ledger_events WHERE notification_id > %s AND notification_id <= %s
ORDER BY notification_id
"""
_INSERT = """
INSERT INTO ledger.ledger_events
    (originator_id, originator_version, topic, state, notification_id, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s)
"""
_NOT_DERIVED = ("api_key", "run_key")


class Prefix:
    """A copy of a log up to a position that only grows, with views and a service of its own."""

    def __init__(self, source: str, copy: str, clock: Clock, project: Callable[[], None]) -> None:
        self._source, self._copy = source, copy
        self.clock, self._project = clock, project
        self._position = 0
        self.http: httpx.AsyncClient
        self.runner: asyncio.Runner

    def copy_keys(self) -> None:
        """Copy the tables that are not derived from the log; call this when the log is complete."""
        with psycopg.connect(self._source) as whole, psycopg.connect(self._copy) as part:
            for table in _NOT_DERIVED:
                rows = whole.execute(f"SELECT * FROM ledger.{table}".encode()).fetchall()
                marks = ", ".join(["%s"] * len(rows[0]))
                with part.cursor() as cursor:
                    insert = f"INSERT INTO ledger.{table} VALUES ({marks})".encode()
                    cursor.executemany(insert, rows)

    def extend_to(self, position: int, instant: datetime) -> None:
        """Extend the copy up to a position, and set the clock to an instant."""
        with psycopg.connect(self._source) as whole, psycopg.connect(self._copy) as part:
            rows = whole.execute(_EVENTS, (self._position, position)).fetchall()
            with part.cursor() as cursor:
                cursor.executemany(_INSERT, rows)
        self._position = position
        self._project()
        self.clock.now = instant

    def ask(self, question: Question, token: str) -> Answer:
        """The answer without ``as_of``, at the copy's position and instant."""
        headers = {"authorization": f"Bearer {token}", "x-request-id": "the-same"}
        request = self.http.get(question.path, params=question.params, headers=headers)
        return answer_of(self.runner.run(request))


@contextmanager
def prefix_of(source: str, copy: str, settings: Settings) -> Iterator[Prefix]:
    """An oracle for a log, in a fresh database, to which its service never writes."""
    clock = Clock()
    with asyncio.Runner() as runner, projecting(copy) as projector:
        prefix = Prefix(source, copy, clock, projector.catch_up)
        stack, app = AsyncExitStack(), create_api(settings, copy, clock)
        runner.run(stack.enter_async_context(app.router.lifespan_context(app)))
        try:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://ledger.test")
            prefix.http = runner.run(stack.enter_async_context(client))
            prefix.runner = runner
            yield prefix
        finally:
            runner.run(stack.aclose())
