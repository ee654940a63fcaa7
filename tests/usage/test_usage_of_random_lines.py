"""Usage across lines equals a model of the raw log, in every grouping and at random instants."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from ledger.app.settings import Settings
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION, fact
from tests.support.service import Clock
from tests.support.soak import repeated
from tests.support.stored import stored_object
from tests.support.time_travel import (
    EXECUTION_MODELS,
    LINES,
    OTHER,
    PRODUCT_LINES,
    TAGS,
    WORKSPACES,
    World,
    exactly,
)
from tests.support.usage_model import (
    KEYS,
    Query,
    Usage,
    UsageModel,
    begin_of,
    date_of,
    groupings,
    instant_of,
)

MICROSECOND = timedelta(microseconds=1)

BEGINNINGS = (
    datetime(2026, 12, 30, 21, tzinfo=UTC),
    # Clocks are set back in Berlin on the 25th, in Cairo at the end of the 29th, in New York later.
    datetime(2026, 10, 24, 21, tzinfo=UTC),
    datetime(2027, 3, 10, 3, tzinfo=UTC),
)
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "America/Sao_Paulo",
    "Africa/Cairo", "Asia/Kathmandu", "Australia/Lord_Howe", "Etc/GMT+12",
)  # fmt: skip
ODD_TAGS = ("\uff5e tag", "\U0001d538", "Ä", "z")
"""In the order of code points, which is neither that of UTF-16 nor that of a dictionary."""
RESOURCES = (None, "RES-1", "RES-2", "RES-10", *ODD_TAGS)
SUMS = ("hours", "check_ins", "runs", "tokens_used", "seconds_by_state", "seconds_by_cause")
MODELS = ("m", "n", "\uff5e", "\U0001d538")
TENANTS = {
    "all": (ORGANIZATION, None),
    "narrow": (ORGANIZATION, WORKSPACES[1]),
    "other": (OTHER, None),
    "admin": (None, None),
}

_LOG = """
SELECT originator_id, originator_version, topic, notification_id, recorded_at,
       convert_from(state, 'UTF8') AS state
FROM ledger.ledger_events ORDER BY notification_id
"""


class Workplace(World):
    """Work with names, several resources and models, and tokens of cancelled runs."""

    def _fact(self) -> dict[str, Any]:
        return self._of_usage() if self.random.random() < 0.3 else super()._fact()

    def _of_usage(self) -> dict[str, Any]:
        pick, line = self.random.choice, self.random.choice(self.lines or LINES)
        run = pick(self.runs[-12:] or ["RUN-26-999999"])
        parts = [
            {"model": model, "input": size, "output": pick([0, 3]), "cache_read": size // 2}
            for model in self.random.sample(MODELS, self.random.randint(1, 2))
            for size in [pick([0, 0, 7])]
        ]
        used = {"token_usage": parts}
        name = {"name": pick(["one", "two", None])}
        tags = {"project_tags": self.random.sample((*TAGS, *ODD_TAGS), self.random.randint(0, 3))}
        return pick([
            fact("execution.checked_in", line, {
                "hours": pick([0.01, 2.5, 1_000, None]), "resource_id": pick(RESOURCES),
            }),
            fact("service_line.updated", line, tags | name),
            fact("service_line.updated", line, tags),
            fact("directory.named", pick((*WORKSPACES, *TAGS)), name | {
                "organization_id": pick([ORGANIZATION, OTHER])
            }),
            fact("resource.allocated", line, {
                "id": pick(RESOURCES[1:]), "type": "t", "name": pick(["Ada", "Bo", None]),
            }),
            fact("run.started", None, {
                "service_line_id": pick(self.lines_with_runs()), "lease_seconds": 600,
            }),
            fact("run.completed", run, used),
            fact("run.failed", run, used),
            fact("run.cancelled", run, used),
            fact("run.usage_corrected", run, pick([used, {"tokens_used": 4}])),
        ])  # fmt: skip


class Log:
    """The whole log of a database, and its beginnings."""

    def __init__(self, conninfo: str) -> None:
        with psycopg.connect(conninfo, row_factory=dict_row) as connection:
            rows = connection.execute(_LOG).fetchall()
        self.events = [row | {"state": stored_object(row["state"])} for row in rows]
        self.now = UsageModel(self.events)
        self.recorded = [row["recorded_at"].astimezone(UTC) for row in rows]
        self.occurred = [
            datetime.fromisoformat(event["state"]["occurred_at"]) for event in self.events
        ]

    def by(self, instant: datetime) -> UsageModel:
        """The model of what was recorded by an instant."""
        pairs = zip(self.events, self.recorded, strict=True)
        return UsageModel([event for event, at in pairs if at <= instant])


class Draw:
    """Random questions about a log."""

    def __init__(self, log: Log, seed: int, now: datetime) -> None:
        self._log, self._random, self._now = log, random.Random(seed), now

    def question(self, words: tuple[str, ...]) -> tuple[str, dict[str, str]]:
        """The name of a token, and the parameters of a question."""
        pick, zone = self._random.choice, self._random.choice(ZONES)
        by = pick(["all", "all", "admin", "narrow", "narrow", "other"])
        params = {"group_by": ",".join(words), "time_zone": zone} | self._filters(words)
        if words == ("service_line",) and pick([True, False]):
            del params["group_by"]
        if zone == "UTC" and pick([True, False]):
            del params["time_zone"]
        if by == "admin":
            params["organization_id"] = pick([ORGANIZATION, ORGANIZATION, OTHER, "ORG-26-000009"])
        elif self._random.random() < 0.1:
            params["organization_id"] = pick([ORGANIZATION, OTHER])
        bounds = sorted([self._bound(zone), self._bound(zone)])
        written = {name: text for name, (_, text) in zip(("from", "to"), bounds, strict=True)}
        for name in self._random.sample(["from", "to"], pick([0, 0, 0, 0, 1, 1, 2])):
            del written[name]
        if pick([True, False]):
            params["as_of"] = self.instant(zone)
        return by, params | written

    def _filters(self, words: tuple[str, ...]) -> dict[str, str]:
        values: dict[str, tuple[Any, ...]] = {
            "workspace_id": (*WORKSPACES, "WS-26-000009"),
            "service_line_id": (*LINES, "LIN-26-999999", "nonsense"),
            "execution_model": tuple(EXECUTION_MODELS),
            "product_line": tuple(PRODUCT_LINES),
            "project_tag": (*TAGS, *ODD_TAGS),
        }
        if "model" not in words:
            values["resource_id"] = (*RESOURCES[1:], "nobody")
        names = self._random.sample(list(values), self._random.choice([0, 0, 0, 1, 1, 2]))
        return {
            name: ",".join(self._random.sample(values[name], self._random.randint(1, 2)))
            if name != "service_line_id"
            else ",".join(self._random.choices(values[name], k=8))
            for name in names
        }

    def _bound(self, zone: str) -> tuple[datetime, str]:
        at = self._random.choice(self._log.occurred)
        if self._random.random() < 0.4:
            at += self._random.choice([-MICROSECOND, timedelta(), MICROSECOND])
            return at, exactly(at)
        day = date_of(zone, at) + timedelta(days=self._random.choice([-3, 0, 0, 0, 1, 1, 2, 40]))
        return begin_of(zone, day), f"{day}"

    def instant(self, zone: str) -> str:
        at = self._random.choice(self._log.recorded)
        day = date_of(zone, at)
        if self._random.random() < 0.2 and begin_of(zone, day) <= self._now:
            return f"{day}"
        return exactly(at + self._random.choice([-1, 0, 0, 1]) * MICROSECOND)

    def limit(self) -> dict[str, str]:
        """The size of a page."""
        return self._random.choice([{}, {"limit": f"{self._random.randint(1, 9)}"},
                                    {"limit": "1000"}])  # fmt: skip


def walked(world: World, path: str, by: str, params: dict[str, str], draw: Draw) -> dict[str, Any]:
    """The ``data`` of an answer, with the rows of all its pages."""
    more: dict[str, str] = {}
    whole: dict[str, Any] = {}
    while True:
        answer = world.edge.get(
            path,
            world.tokens[by],
            params=params | draw.limit() | more,
            headers={"ledger-min-position": str(world.head)},
        )
        assert answer.status_code == 200, (answer.text, params)
        data, meta = answer.json()["data"], answer.json()["meta"]
        if more:
            assert {**data, "rows": 0} == {**whole, "rows": 0, "total": None}
            whole["rows"] += data["rows"]
        else:
            whole = data
        if not meta["has_more"]:
            return whole
        more = {"cursor": meta["cursor"]}


def exported(world: World, by: str, params: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of an export, and its total."""
    answer = world.edge.get(
        "/v1/usage/export",
        world.tokens[by],
        params=params,
        headers={"ledger-min-position": str(world.head)},
    )
    assert answer.status_code == 200, (answer.text, params)
    return [json.loads(line) for line in answer.text.splitlines()]


def usage_of(edge: Edge, token: str, line: str, data: dict[str, Any]) -> dict[str, Any]:
    """The sums of a line by its own usage and its own timeline, in the period of an answer."""
    past = {} if data["as_of"] is None else {"as_of": data["as_of"]}
    params = {"from": data["from"], "to": data["to"]} | past
    sums: dict[str, Any] = edge.data(f"/v1/execution/{line}/usage", token, params=params)["total"]
    clock = exactly(edge.clock.now) if data["as_of"] is None else data["as_of"]
    params["to"] = min(data["to"], clock, key=datetime.fromisoformat)
    if datetime.fromisoformat(data["from"]) < datetime.fromisoformat(params["to"]):
        spent = edge.data(f"/v1/execution/{line}/timeline", token, params=params)["totals"]
        sums |= {f"seconds_{name}": seconds for name, seconds in spent.items()}
    del sums["hours_by_resource"]
    return sums


def added(rows: list[dict[str, Any]], name: str) -> Any:
    """The sum of a number of rows, or of an object of numbers."""
    if isinstance(rows[0][name], dict):
        return {key: added([row[name] for row in rows], key) for key in rows[0][name]}
    return pytest.approx(sum(row[name] for row in rows))


def assert_lines_agree(world: World, by: str, data: dict[str, Any]) -> None:
    """Assert that rows of lines are the lines' own usage, and that the total is their sum."""
    rows = data["rows"]
    for row in world.random.sample(rows, min(len(rows), 2)):
        sums = usage_of(world.edge, world.tokens[by], row["service_line_id"], data)
        assert {name: row[name] for name in sums} == sums
    for name in SUMS if rows else ():
        assert data["total"][name] == added(rows, name)


@pytest.mark.parametrize(
    ("seed", "rounds", "times"),
    repeated([(1, 28, 3), *((seed, 60, 12) for seed in range(2, 12))]),
)
def test_usage_is_what_a_model_of_the_log_tells(
    conninfo: str, settings: Settings, seed: int, rounds: int, times: int
) -> None:
    clock = Clock(BEGINNINGS[seed % len(BEGINNINGS)])
    with edge_of(settings, conninfo, clock) as edge:
        world = Workplace(edge, seed)
        for _ in range(rounds):
            world.work()
            world.move()
        log, rows = Log(conninfo), Counter[str]()
        draw = Draw(log, seed, clock.now)
        for words in groupings() * times:
            by, params = draw.question(words)
            question, then, as_of = Query(params, *TENANTS[by]), log.now, clock.now
            if "as_of" in params:
                as_of = instant_of(question.zone, params["as_of"])
                then = log.by(as_of)
            data = walked(world, "/v1/usage", by, params, draw)
            expected = Usage(question, then, log.now, as_of).answer()
            assert json.dumps(data) == json.dumps(expected), (by, params)
            if world.random.random() < 0.2:
                whole = [*data["rows"], {"total": data["total"]}]
                assert json.dumps(exported(world, by, params)) == json.dumps(whole), (by, params)
            rows.update(dict.fromkeys(words, len(data["rows"])))
            if words == ("service_line",) and "resource_id" not in params:
                assert_lines_agree(world, by, data)
        assert min(rows[word] for word in KEYS) > 9, rows
