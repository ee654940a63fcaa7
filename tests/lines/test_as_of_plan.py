"""Reads of the past touch rows in proportion to the page, and near now they wait for appends."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
import pytest

from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import CAUSES, EXECUTION_MODELS, day_of, format_instant, week_of
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from projections.lines import lists, statements
from projections.lines.orders import Sort
from projections.runs.statements import run_read
from tests.support.edge import Edge, edge_of
from tests.support.facts import LINE, ORGANIZATION, activation, fact
from tests.support.plans import cost, database_after
from tests.support.racing_writers import SLOTS, Racer, now, parsed, principal, running_writer
from tests.support.time_travel import OF_A_LINE, OTHER, WORKSPACES, Answer, answer_of, as_of
from tests.support.views import query, report, until

# Costs.

ROUNDS, NEW_LINES, CHANGES = 8, 100, 900
"""Each round activates new lines, then changes any of the lines: 11 events a line on average."""


class Past(NamedTuple):
    """A database with many events, and two instants of its past."""

    connection: psycopg.Connection[Any]
    long_ago: datetime
    half_way: datetime
    run: str
    """The first run of the log."""


@pytest.fixture(scope="module")
def past(server: EmbeddedPostgres) -> Iterator[Past]:
    """800 lines in two organizations, activated in rounds, with changes after each round."""
    with database_after(server, "plan", work) as (connection, ends):
        at = [
            connection.execute("SELECT ledger.recorded_at(%s)", (end,)).fetchall()[0][0]
            for end in (ends[0], ends[ROUNDS // 2])
        ]
        first = "SELECT run_id FROM ledger.run ORDER BY opened LIMIT 1"
        ((run,),) = connection.execute(first.encode()).fetchall()
        yield Past(connection, *at, run)


def work(writer: Writer) -> list[int]:
    """Report the facts of all rounds. Return the log's end after each round."""
    dice, lines, ends = random.Random(5), list[str](), []
    on: set[str] = set()

    def change() -> dict[str, Any]:
        line, chance = dice.choice(lines), dice.random()
        if chance < 0.3:
            return fact("execution.checked_in", line, {"hours": 1})
        if chance < 0.4:
            return fact("service_line.updated", line, {"project_tags": [f"P-{dice.random()}"]})
        return switch(line, chance < 0.8)

    def switch(line: str, hold: bool) -> dict[str, Any]:
        """Pause or resume, block or unblock."""
        key = f"{line} {hold}"
        on.symmetric_difference_update({key})
        if hold:
            name = "paused" if key in on else "resumed"
            return fact(f"service_line.{name}", line)
        data = {"blocker_id": "b"}
        if key in on:
            return fact("execution.blocked", line, data | {"cause": dice.choice(CAUSES)})
        return fact("execution.unblocked", line, data)

    for number in range(ROUNDS):
        new = [f"LIN-26-{number * NEW_LINES + n + 1:06d}" for n in range(NEW_LINES)]
        begun = []
        for index, line in enumerate(new):
            model, workspace = EXECUTION_MODELS[index % 6], WORKSPACES[index % 50 == 0]
            tenant = OTHER if index % 10 == 9 else ORGANIZATION
            begun.append(activation(line, model, workspace_id=workspace, organization_id=tenant))
            lines.append(line)
        runs = [n for n in range(NEW_LINES) if EXECUTION_MODELS[n % 6] == "agent_runtime"]
        begun += [fact("run.requested", None, {"service_line_id": new[n]}) for n in runs]
        report(writer, *begun)
        changes = [change() for _ in range(CHANGES)]
        ends.append(report(writer, *changes)[-1])
    return ends


def parameters_at(moment: datetime, **more: Any) -> dict[str, Any]:
    periods = {"today": day_of(moment), "week": week_of(moment)}
    return {"as_of": moment, "settled": False, **periods, **more}


TENANT = {"organization": ORGANIZATION}
FILTERS: dict[str, dict[str, Any]] = {
    "none": TENANT,
    "running": TENANT | {"state": ["running"]},
    "paused": TENANT | {"state": ["paused"]},
    "two states": TENANT | {"state": ["blocked", "paused"]},
    "workspace": TENANT | {"workspace_id": [WORKSPACES[0]]},
    "rare workspace": TENANT | {"workspace_id": [WORKSPACES[1]]},
    "health": TENANT | {"health": ["none"]},
    "narrow and state": TENANT | {"workspace": WORKSPACES[1], "state": ["running"]},
}
UNLED: dict[str, dict[str, Any]] = {
    "everything": {},
    "narrow": TENANT | {"workspace": WORKSPACES[1]},
}


@pytest.mark.parametrize(
    ("name", "limit", "moment"),
    [
        (name, limit, ("long_ago", "half_way")[(index + number) % 2])
        for index, name in enumerate(FILTERS)
        for number, limit in enumerate((10, 100))
    ],
)
def test_a_list_of_the_past_touches_rows_in_proportion_to_its_page(
    past: Past, name: str, limit: int, moment: str
) -> None:
    assert list_cost(past, FILTERS[name], limit, moment) <= 7 * limit + 40


@pytest.mark.parametrize("name", UNLED)
def test_an_unfiltered_list_of_a_workspace_or_of_all_tenants_touches_few_rows(
    past: Past, name: str
) -> None:
    assert list_cost(past, UNLED[name], 10, "half_way") <= 110


@pytest.mark.parametrize("sort", ["state_since", "health_score"])
def test_a_list_of_the_past_in_another_order_reads_each_line_of_the_tenant_once(
    past: Past, sort: Sort
) -> None:
    assert list_cost(past, TENANT, 10, "half_way", sort) <= ROUNDS * NEW_LINES + 7 * 10 + 40
    narrow = TENANT | {"workspace": WORKSPACES[1], "state": ["running"]}
    assert list_cost(past, narrow, 10, "half_way", sort) <= 200


def list_cost(
    past: Past, filters: dict[str, Any], limit: int, moment: str, sort: Sort | None = None
) -> float:
    """The rows that a list of the past touches. Asserts that the list is not empty."""
    read = lists.list_read(filters, past=True, sort=sort)
    parameters = parameters_at(getattr(past, moment), **filters, limit=limit)
    page = cost(past.connection, read, parameters)
    assert page.found > 0
    return page.rows


@pytest.mark.parametrize("moment", ["long_ago", "half_way"])
@pytest.mark.parametrize("kind", ["detail", "run"])
def test_a_detail_and_a_run_of_the_past_touch_few_rows(past: Past, kind: str, moment: str) -> None:
    read = statements.detail_read(frozenset(TENANT), past=True)
    values: dict[str, Any] = {"line_id": "LIN-26-000001"}
    if kind == "run":
        read = run_read(frozenset(TENANT), past=True)
        values = {"run_id": past.run}
    parameters = parameters_at(getattr(past, moment), **TENANT, **values)
    found = cost(past.connection, read, parameters)
    assert found.found == 1
    assert found.rows <= 15


# Near now.


class HeldClock:
    """The real clock; it blocks until ``let_go`` is set, but for the call before the lock."""

    def __init__(self) -> None:
        self.was_called, self.let_go = threading.Event(), threading.Event()
        self.at, self.is_repeated = now(), False

    def __call__(self) -> datetime:
        self.at = now()
        if not self.is_repeated:
            self.is_repeated = True
            return self.at
        self.was_called.set()
        assert self.let_go.wait(20)
        return self.at


_WAITERS = """
SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'ledger.append_lock'::regclass
"""


@pytest.mark.parametrize(("path", "name"), [("", "as_of"), ("/history", "recorded_until")])
def test_a_read_as_of_now_waits_for_the_append_in_flight(
    conninfo: str, settings: Settings, path: str, name: str
) -> None:
    held, report = HeldClock(), command_of(parsed(activation()), principal("held"))
    with (
        edge_of(settings, conninfo, now) as edge,
        writing(settings, conninfo, held) as writer,
        ThreadPoolExecutor() as others,
    ):
        try:
            receipt = writer.submit([report])
            assert held.was_called.wait(20)
            instant = {name: format_instant(now())}
            answer = others.submit(edge.get, f"/v1/execution/{LINE}{path}", params=instant)
            until(lambda: query(conninfo, _WAITERS), "a reader that waits")
        finally:
            held.let_go.set()
        assert answer.result(20).status_code == 200
        position = str(receipt.result(20)[0].position)
        assert answer.result().headers["ledger-position"] == position


WRITERS, READERS = 8, 3


def test_answers_as_of_now_among_eight_writers_can_be_repeated(
    conninfo: str, settings: Settings
) -> None:
    def write(number: int, writer: Writer) -> int:
        racer = Racer(number)
        for step in range(16):
            chunk = racer.next_commands(step)
            racer.count_outcomes(chunk, writer.submit(chunk))
        return racer.counts["done"]

    lines = [f"LIN-26-{slot + 1:03d}{n:03d}" for slot in range(SLOTS) for n in range(4)]
    paths = [f"/v1/execution/{line}{path}" for line in lines for path in OF_A_LINE]
    paths += ["/v1/execution?limit=3", "/v1/execution/summary", "/v1/execution?state=running"] * 9
    answers: list[tuple[str, datetime, Answer]] = []

    def read(number: int, edge: Edge, working: list[Future[int]]) -> None:
        dice = random.Random(number)
        while not all(future.done() for future in working):
            path, moment = dice.choice(paths), now()
            answers.append((path, moment, answered(edge, path, moment)))

    def answered(edge: Edge, path: str, moment: datetime) -> Answer:
        return answer_of(edge.get(path, params=as_of(moment), headers={"x-request-id": "the-same"}))

    with ExitStack() as stack:
        edge = stack.enter_context(edge_of(settings, conninfo, now))
        others = stack.enter_context(ThreadPoolExecutor(WRITERS + READERS))
        writers = [stack.enter_context(running_writer(conninfo)) for _ in range(WRITERS)]
        working = [others.submit(write, n, writer) for n, writer in enumerate(writers)]
        reading = [others.submit(read, n, edge, working) for n in range(READERS)]
        assert [future.result() for future in reading] == [None] * READERS
        assert sum(future.result() for future in working) > 350
        assert {answer.status for _, _, answer in answers} <= {200, 404}
        assert len({answer.position for _, _, answer in answers}) > 8
        for path, moment, answer in answers:
            assert answered(edge, path, moment) == answer, (path, moment)
