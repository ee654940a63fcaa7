"""Reads as of an instant equal the live answers of that instant (contract, Reading)."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import format_instant
from tests.support.databases import copied
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import LINE, activation, fact
from tests.support.service import Clock
from tests.support.soak import repeated
from tests.support.time_travel import (
    KINDS,
    OF_A_LINE,
    Answer,
    Question,
    Questions,
    World,
    answer_of,
    as_of,
    ask,
    prefix_of,
)
from tests.support.views import query

BEGIN = datetime(2026, 12, 30, 21, 0, tzinfo=UTC)
"""A day before the end of a year, and some days before the next week."""

MICROSECOND = timedelta(microseconds=1)

Exchange = tuple[Question, datetime, Answer]


def instants(conninfo: str) -> list[tuple[datetime, int]]:
    """(instant of recording, position) of every event, in order."""
    rows = query(conninfo, "SELECT recorded_at, notification_id FROM ledger.ledger_events")
    return sorted((at.astimezone(UTC), position) for at, position in rows)


# Live answers, and answers as of their instants.


def work_and_ask(world: World, rounds: int, questions: int) -> list[Exchange]:
    """Work, and after each batch ask questions about the present. Return them with the answers."""
    asker, exchanges = Questions(world), []
    for _ in range(rounds):
        world.work()
        moment = world.edge.clock.now
        for question in asker.draw(questions):
            following: Question | None = question
            while following is not None:
                answer = ask(world, following)
                exchanges.append((following, moment, answer))
                following = asker.follow_up(following, answer)
        world.move()
    return exchanges


def assert_varied(exchanges: list[Exchange], often: int) -> None:
    """Assert that every kind of question was answered often, and that many lists had rows."""
    answered = Counter(question.kind for question, _, answer in exchanges if answer.status == 200)
    assert min(answered[kind] for kind in KINDS) >= often, answered
    lists = [answer.body for question, _, answer in exchanges if question.kind == "list"]
    assert sum(body.count(b'"service_line_id"') > 1 for body in lists) >= often
    by_cursor = [a for q, _, a in exchanges if "cursor" in q.params and b'"data":[{' in a.body]
    assert len(by_cursor) >= often // 2
    bodies = b"".join(answer.body for _, _, answer in exchanges)
    assert all(b'"state":"%s"' % s in bodies for s in (b"running", b"idle", b"paused", b"blocked"))


@pytest.mark.parametrize(("seed", "rounds"), repeated([(1, 14), (1, 45), (2, 45), (3, 45)]))
def test_an_instant_is_answered_as_it_was_answered_live(
    conninfo: str, settings: Settings, seed: int, rounds: int
) -> None:
    with edge_of(settings, conninfo, Clock(BEGIN)) as edge:
        world = World(edge, seed)
        exchanges = work_and_ask(world, rounds, 10)
        assert_varied(exchanges, often=rounds * 4 // 9)
        for question, moment, answer in exchanges:
            assert ask(world, question, moment) == answer, (question, moment)


def moments(world: World, count: int) -> list[tuple[datetime, int]]:
    """(instant, position that it shows): instants at, just before and between recordings."""
    found, recorded = [], instants(world.edge.conninfo)
    for (at, position), (following, _) in pairwise(recorded):
        between = at + (following - MICROSECOND - at) * world.random.random()
        found += [(moment, position) for moment in {at, following - MICROSECOND, between}]
    return sorted(world.random.sample(found, count))


@pytest.mark.parametrize(("seed", "questions"), repeated([(4, 15), (4, 100), (5, 100)]))
def test_an_instant_is_answered_as_by_a_ledger_whose_log_and_clock_end_there(
    server: EmbeddedPostgres, conninfo: str, settings: Settings, seed: int, questions: int
) -> None:
    with (
        copied(server.url, f"prefix_{seed}") as copy,
        edge_of(settings, conninfo, Clock(BEGIN)) as edge,
        prefix_of(conninfo, copy, settings) as prefix,
    ):
        world = World(edge, seed, erases=True)
        for _ in range(40):
            world.work()
            world.move()
        prefix.copy_keys()  # with all later erasures, since an erasure holds for all instants
        assert len(query(conninfo, "SELECT 1 FROM ledger.run_key WHERE wrapped IS NULL")) >= 5
        asker, exchanges = Questions(world), []
        for moment, position in moments(world, questions):
            prefix.extend_to(position, moment)
            for question in asker.draw(6):
                expected = prefix.ask(question, world.tokens[question.by])
                assert expected.position in (None, str(position))
                assert ask(world, question, moment) == expected, (question, moment)
                asker.follow_up(question, expected)
                exchanges.append((question, moment, expected))
        assert_varied(exchanges, often=questions // 5)


# The edges of time.


def recorded_at(edge: Edge, item: dict[str, Any]) -> datetime:
    """The instant at which the event of a recorded fact was recorded."""
    return next(at for at, position in instants(edge.conninfo) if position == item["position"])


def test_a_line_exists_from_its_activation_on_and_not_a_microsecond_before(edge: Edge) -> None:
    edge.clock.advance(hours=1)
    line, workspace = edge.fresh_id(), "WS-26-700001"
    (item,) = edge.accept(activation(line, workspace_id=workspace))
    began = recorded_at(edge, item)
    lines = {"workspace_id": workspace}

    for path in OF_A_LINE:
        answer = edge.get(f"/v1/execution/{line}{path}", params=as_of(began - MICROSECOND))
        assert_problem(answer, 404, "not_found")
        answer = edge.get(f"/v1/execution/{line}{path}", params=as_of(began))
        assert answer_of(answer).position == str(item["position"])
    before, there = lines | as_of(began - MICROSECOND), lines | as_of(began)
    assert edge.data("/v1/execution", params=before) == []
    assert edge.data("/v1/execution/summary", params=before)["total"] == 0
    assert [row["service_line_id"] for row in edge.data("/v1/execution", params=there)] == [line]
    assert edge.data("/v1/execution/summary", params=there)["total"] == 1


def test_a_run_exists_from_its_request_on_and_not_a_microsecond_before(edge: Edge) -> None:
    line = edge.fresh()
    early = format_instant(edge.clock.now + timedelta(minutes=5))
    (item,) = edge.accept(fact("run.requested", None, {"service_line_id": line}, time=early))
    began, run = recorded_at(edge, item), f"/v1/runs/{item['subject']}"
    assert_problem(edge.get(run, params=as_of(began - MICROSECOND)), 404, "not_found")
    assert edge.data(f"/v1/execution/{line}/runs", params=as_of(began - MICROSECOND)) == []
    (view,) = edge.data(f"/v1/execution/{line}/runs", params=as_of(began))
    assert view == edge.data(run, params=as_of(began))
    assert (view["status"], view["requested_at"]) == ("pending", early)


def test_an_instant_may_fall_between_the_events_of_one_batch(edge: Edge) -> None:
    edge.clock.advance(hours=1)
    line = edge.fresh_id()
    names = ("service_line.paused", "service_line.resumed", "service_line.closed")
    items = edge.accept(activation(line), *(fact(name, line) for name in names))
    times = [recorded_at(edge, item) for item in items]
    assert [b - a for a, b in pairwise(times)] == [MICROSECOND] * 3
    path = f"/v1/execution/{line}"
    states = [edge.data(path, params=as_of(at))["state"] for at in times]
    assert states == ["running", "paused", "running", "closed"]


def test_today_and_this_week_in_metrics_are_those_of_the_instant(edge: Edge) -> None:
    edge.clock.now = datetime(2026, 5, 31, 22, 0, tzinfo=UTC)  # a Sunday
    runs, hours = edge.fresh(), edge.fresh("capacity")
    edge.accept(
        fact("run.started", None, {"service_line_id": runs}),
        fact("execution.checked_in", hours, {"hours": 2.5}),
    )
    edge.clock.advance(days=30)
    midnight = datetime(2026, 6, 1, tzinfo=UTC)
    for moment, count, amount in ((midnight - MICROSECOND, 1, 2.5), (midnight, 0, 0)):
        metrics = edge.data(f"/v1/execution/{runs}", params=as_of(moment))["metrics"]
        assert (metrics["invocations_today"], metrics["invocations_total"]) == (count, 1)
        metrics = edge.data(f"/v1/execution/{hours}", params=as_of(moment))["metrics"]
        assert (metrics["hours_this_week"], metrics["hours_total"]) == (amount, 2.5)


def paths_of(edge: Edge) -> list[str]:
    """A path of each kind of read; every path is answered 200."""
    line = edge.fresh()
    (item,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    of_line = [f"/v1/execution/{line}{path}" for path in OF_A_LINE]
    return ["/v1/execution", "/v1/execution/summary", f"/v1/runs/{item['subject']}", *of_line]


def test_an_instant_later_than_the_clock_is_refused_unless_an_event_has_it(edge: Edge) -> None:
    paths = paths_of(edge)
    edge.clock.advance(seconds=1)
    line = paths[3].removeprefix("/v1/execution/")
    # The clock stands: each event of a batch is recorded a microsecond after the previous event.
    items = edge.accept(*(fact("execution.checked_in", line) for _ in range(3)))
    last = recorded_at(edge, items[-1])
    assert last == edge.clock.now + 2 * MICROSECOND
    for path in paths:
        answer = answer_of(edge.get(path, params=as_of(last)))
        assert (answer.status, answer.position) == (200, str(items[-1]["position"]))
        for future in (last + MICROSECOND, last + timedelta(days=9_999)):
            assert_refused(edge.get(path, params=as_of(future)))


def assert_refused(answer: httpx.Response) -> None:
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/as_of"]


@pytest.mark.parametrize(
    "value",
    [
        "", "now", "yesterday", "2026", "2026-04", "2026-02-30", "2026-13-01", "1776254400",
        "2026-04-15T12:00:00", "2026-04-15 12:00:00Z", "2026-04-15T12:00Z", "2026-04-15T12:00:60Z",
        "2026-04-15T25:00:00Z", "2026-04-15T12:00:00+25:00", "2026-04-15T12:00:00,5Z", "-1",
        "1899-12-31", "2026-04-15Z", " 2026-04-15", "2026-04-15\n", "２026-04-15", "null",
    ],
)  # fmt: skip
def test_a_malformed_instant_is_refused(edge: Edge, value: str) -> None:
    for path in ("/v1/execution", "/v1/execution/summary", f"/v1/execution/{LINE}/usage"):
        assert_refused(edge.get(path, params={"as_of": value}))


def test_a_repeated_instant_is_refused(edge: Edge) -> None:
    twice = "/v1/execution?as_of=2026-04-01&as_of=2026-04-01"
    assert_problem(edge.get(twice), 422, "invalid_request")


def test_writes_accept_no_instant(edge: Edge) -> None:
    line = edge.fresh()
    head = edge.log()
    for path in ("/v1/facts", f"/v1/execution/{line}/pause", f"/v1/execution/{line}/resume"):
        answer = edge.post(path, params={"as_of": "2026-04-01"}, json={"reason": "r"})
        problem = assert_problem(answer, 422, "invalid_request")
        assert problem["errors"] == [{"pointer": "/as_of", "detail": "is not known"}]
    assert edge.log() == head


def test_an_instant_is_the_same_however_it_is_written(edge: Edge) -> None:
    edge.clock.now = max(edge.clock.now, datetime(2026, 6, 10, 20, tzinfo=UTC))
    line = edge.fresh("capacity")
    edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    edge.clock.now = (edge.clock.now + timedelta(days=2)).replace(hour=1)
    day = edge.clock.now.date()
    eve = day - timedelta(days=1)
    same = [
        f"{day}", f"{day}T00:00:00Z", f"{day}t00:00:00.000z", f"{day}T00:00:00.0000009Z",
        f"{day}T02:00:00+02:00", f"{eve}T18:30:00-05:30", f"{day}T00:00:00-00:00",
    ]  # fmt: skip
    for path in ("", "/timeline", "/usage", "/history"):
        paths = [(f"/v1/execution/{line}{path}", {"as_of": text}) for text in same]
        answers = {answer_of(edge.get(path, params=params)) for path, params in paths}
        assert [answer.status for answer in answers] == [200]


# Tenants.


# Walks.


def paged(edge: Edge, path: str, meanwhile: Any, **params: Any) -> list[dict[str, Any]]:
    """The rows of a whole list, page by page; ``meanwhile`` runs after each page."""
    rows: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        document = edge.get(path, params=params | more).json()
        rows += document["data"]
        if not document["meta"]["has_more"]:
            return rows
        more = {"cursor": document["meta"]["cursor"]}
        meanwhile(len(rows))


@pytest.mark.parametrize("extra", [{}, {"state": "running,paused"}, {"blocked_cause": ""}], ids=str)
def test_writers_disturb_no_paging_at_an_instant(edge: Edge, extra: dict[str, str]) -> None:
    ids = [edge.fresh_id() for _ in range(40)]
    tag = f"PROJ-{ids[0]}"
    cause = {"blocker_id": "b", "cause": "capacity_issue"}
    edge.accept(*(activation(line, project_tags=[tag]) for line in ids))
    if "blocked_cause" in extra:
        extra = {"blocked_cause": "capacity_issue"}
        edge.accept(*(fact("execution.blocked", line, cause) for line in ids))
    edge.clock.advance(seconds=1)
    params = as_of(edge.clock.now, project_tag=tag, limit=3, **extra)
    edge.clock.advance(seconds=1)

    def storm(last: int) -> None:
        gone = ids[last % 40]
        edge.send_batch(
            activation(edge.fresh_id(), project_tags=[tag]),
            fact("service_line.updated", ids[-last], {"project_tags": []}),
            fact("execution.unblocked", ids[-last], {"blocker_id": "b"}),
            fact("service_line.closed", gone),
        )

    rows = paged(edge, "/v1/execution", storm, **params)
    assert [row["service_line_id"] for row in rows] == ids[::-1]
    assert paged(edge, "/v1/execution", lambda _: None, **params) == rows


def test_writers_disturb_no_paging_of_a_lines_runs_and_history_at_an_instant(edge: Edge) -> None:
    line = edge.fresh()
    begun = [fact("run.started", None, {"service_line_id": line}) for _ in range(20)]
    runs = [item["subject"] for item in edge.accept(*begun)]
    edge.clock.advance(seconds=1)
    params = as_of(edge.clock.now, limit=3)
    edge.clock.advance(seconds=1)

    def storm(last: int) -> None:
        more = fact("run.started", None, {"service_line_id": line})
        edge.send_batch(fact("run.completed", runs[-last]), fact("run.failed", runs[last]), more)

    rows = paged(edge, f"/v1/execution/{line}/runs", storm, status="running", **params)
    assert [row["id"] for row in rows] == runs[::-1]
    rows = paged(edge, f"/v1/execution/{line}/history", storm, **params)
    assert [row["subject"]["id"] for row in rows] == [line, *runs]


def test_a_cursor_of_the_present_serves_the_past_and_the_other_way_round(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(*(fact("run.started", None, {"service_line_id": line}) for _ in range(5)))
    edge.clock.advance(seconds=1)
    paths = {f"/v1/execution/{line}{path}": {} for path in ("/runs", "/history")}
    for path, filters in (paths | {"/v1/execution": {"state": "running"}}).items():
        answers = []
        for first, then in (({}, as_of(edge.clock.now)), (as_of(edge.clock.now), {})):
            page = edge.get(path, params=filters | {"limit": 2} | first).json()
            cursor = {"cursor": page["meta"]["cursor"], "limit": 3}
            answers.append(answer_of(edge.get(path, params=filters | cursor | then)))
        assert answers[0] == answers[1]
        assert answers[0].status == 200


def test_a_state_filter_may_name_a_state_twice(edge: Edge) -> None:
    line = edge.fresh(project_tags=["PROJ-twice"])
    edge.clock.advance(seconds=1)
    params = {"state": "running,idle,running", "project_tag": "PROJ-twice"}
    for moment in ({}, as_of(edge.clock.now)):
        rows = edge.data("/v1/execution", params=params | moment)
        assert [row["service_line_id"] for row in rows] == [line]


def test_a_read_of_the_past_waits_for_a_minimum_position_too(edge: Edge) -> None:
    (item,) = edge.accept(activation(edge.fresh_id()))
    path, position = "/v1/execution/summary", item["position"]
    params = as_of(recorded_at(edge, item) - MICROSECOND)
    answer = edge.get(path, params=params, headers={"ledger-min-position": str(position)})
    assert answer.status_code == 200
    assert int(answer.headers["ledger-position"]) < position
    answer = edge.get(path, params=params, headers={"ledger-min-position": str(position + 1)})
    assert_problem(answer, 503, "behind")


def test_a_read_of_the_past_with_a_matching_entity_tag_is_a_304(edge: Edge) -> None:
    line = edge.fresh()
    edge.clock.advance(seconds=1)
    path, params = f"/v1/execution/{line}", as_of(edge.clock.now)
    answer = edge.get(path, params=params)
    edge.clock.advance(seconds=1)
    edge.accept(fact("service_line.paused", line))
    headers = {"if-none-match": answer.headers["etag"]}
    assert edge.get(path, params=params, headers=headers).status_code == 304
    assert edge.get(path, headers=headers).status_code == 200
