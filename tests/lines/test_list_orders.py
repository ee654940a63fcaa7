"""Lists in another order than by record, and filters of now (contract, Reading)."""

import base64
import itertools
import json
import random
from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.values import format_instant
from tests.engine.http.test_cursors import paged
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.soak import repeated

SORTS = ("state_since", "health_score", "due_at")


def signal(line: str, status: str, name: str = "sla_compliance") -> dict[str, Any]:
    return fact("health.signal_reported", line, {"signal": name, "status": status})


def blocked(line: str, **more: Any) -> dict[str, Any]:
    return fact("execution.blocked", line, {"blocker_id": "B-1", "cause": "approval_gap"}, **more)


def waits(line: str, blocker: str, assignee: str | None, due_at: str | None) -> dict[str, Any]:
    data = {"blocker_id": blocker, "cause": "approval_gap", "assignee": assignee, "due_at": due_at}
    return fact("execution.blocked", line, data)


def later(edge: Edge) -> str:
    """The time of a fact, a minute after the facts before it."""
    edge.clock.advance(minutes=1)
    return format_instant(edge.clock.now)


def lines(edge: Edge, tag: str, count: int, **more: Any) -> list[str]:
    """New lines under a tag of one test, of one instant, oldest record first."""
    ids = [edge.fresh_id() for _ in range(count)]
    more |= {"project_tags": [tag], "time": format_instant(edge.clock.now)}
    edge.accept(*(activation(line, **more) for line in ids))
    return ids


def listed(edge: Edge, query: str) -> list[str]:
    return [row["service_line_id"] for row in edge.data(f"/v1/execution?{query}")]


def test_a_second_blocker_or_a_check_in_moves_no_line_in_the_order_by_time(edge: Edge) -> None:
    ids = lines(edge, "by-time-2", 2, execution_model="capacity")
    for line in ids:
        edge.accept(blocked(line, time=later(edge)))
    second = {"blocker_id": "B-2", "cause": "policy_violation"}
    edge.accept(
        fact("execution.blocked", ids[0], second, time=later(edge)),
        fact("execution.checked_in", ids[0], {"hours": 2}, time=later(edge)),
    )
    assert listed(edge, "project_tag=by-time-2&sort=state_since") == ids


def due(edge: Edge, **duration: float) -> str:
    return format_instant(edge.clock.now + timedelta(**duration))


def test_a_line_is_overdue_from_the_instant_after_its_due_time_on(edge: Edge) -> None:
    soon, late, never = lines(edge, "overdue", 3)
    edge.accept(
        waits(soon, "B-1", None, due(edge, minutes=1)),
        waits(late, "B-1", "USR-1", due(edge, days=-1)),
        waits(never, "B-1", None, None),
    )
    query = "project_tag=overdue&overdue=true"

    def assert_found(*expected: str) -> None:
        assert listed(edge, query) == [*expected]
        assert edge.data(f"/v1/execution/summary?{query}")["total"] == len(expected)

    assert_found(late)
    edge.clock.advance(minutes=1)
    assert_found(late)
    edge.clock.advance(microseconds=1)
    assert_found(late, soon)
    assert listed(edge, f"{query}&sort=due_at") == [late, soon]
    assert listed(edge, f"{query}&assignee=USR-1") == [late]
    edge.accept(fact("execution.unblocked", late, {"blocker_id": "B-1"}))
    assert_found(soon)


def test_lines_are_found_and_counted_by_organization(edge: Edge) -> None:
    other, tag = "ORG-26-000779", "project_tag=by-organization"
    mine = lines(edge, "by-organization", 2)
    admin = edge.token("admin", organization_id=None)
    foreign = [edge.fresh_id()]
    facts = activation(foreign[0], organization_id=other, project_tags=["by-organization"])
    edge.accept(facts, token=admin)
    narrow = edge.token("read", workspace_id="WS-26-000001")
    stranger = edge.token("read", organization_id=other)

    def found(query: str, token: str | None = None) -> list[str]:
        found = [r["service_line_id"] for r in edge.data(f"/v1/execution?{tag}&{query}", token)]
        total = edge.data(f"/v1/execution/summary?{tag}&{query}", token)["total"]
        assert total == len(found)
        return found

    assert found("", admin) == [*foreign, *mine[::-1]]
    for query in ("", "&health=none", "&resource_id=none", "&state=running"):
        expected = [] if "resource" in query else foreign
        assert found(f"organization_id={other}{query}", admin) == expected
        assert found(f"organization_id={other}{query}", stranger) == expected
        assert found(f"organization_id={other}{query}") == []
        assert found(f"organization_id={other}{query}", narrow) == []
    for sort in SORTS:
        path = f"/v1/execution?{tag}&organization_id={ORGANIZATION}&sort={sort}"
        assert [row["service_line_id"] for row in edge.data(path, admin)] == mine[::-1]
    for token in (None, narrow, admin):
        assert found(f"organization_id={ORGANIZATION}", token) == mine[::-1]
    assert found("organization_id=ORG-26-0%2CORG-26-1", admin) == []
    rows = edge.data(f"/v1/execution?{tag}", admin)
    assert [row["organization_id"] for row in rows] == [other, ORGANIZATION, ORGANIZATION]
    assert edge.data(f"/v1/execution/{foreign[0]}", admin)["organization_id"] == other


def test_a_resource_of_an_activation_is_found(edge: Edge) -> None:
    line = edge.fresh(resources=[{"id": "SCR-90", "type": "person"}])
    assert listed(edge, "resource_id=SCR-90") == [line]


@pytest.mark.parametrize(
    "query",
    ["resource_id=SCR-95", "health=amber", "assignee=USR-95", "overdue=true", "unassigned=true",
     *map("sort={}".format, SORTS)],
)  # fmt: skip
def test_nobody_finds_another_tenants_lines(edge: Edge, query: str) -> None:
    line = edge.fresh(resources=[{"id": "SCR-95", "type": "person"}])
    edge.accept(
        signal(line, "red"),
        waits(line, "B-1", "USR-95", due(edge, days=-1)),
        waits(line, "B-2", None, None),
    )
    stranger = edge.token("read", organization_id="ORG-26-000778")
    narrow = edge.token("read", workspace_id="WS-26-000777")
    for token in (stranger, narrow):
        assert edge.data(f"/v1/execution?{query}&limit=100", token) == []
        if not query.startswith("sort"):
            assert edge.data(f"/v1/execution/summary?{query}", token)["total"] == 0
    assert line in [row["service_line_id"] for row in paged(edge, f"/v1/execution?{query}", 100)]


@pytest.mark.parametrize(
    "query",
    ["sort=due_at", "resource_id=SCR-1", "assignee=USR-1", "unassigned=true", "overdue=true",
     f"organization_id={ORGANIZATION}"],
)  # fmt: skip
def test_orders_and_filters_of_now_are_refused_for_the_past(edge: Edge, query: str) -> None:
    name = query.partition("=")[0]
    for path in ("/v1/execution", "/v1/execution/summary"):
        answer = edge.get(f"{path}?as_of=2026-04-15&{query}")
        assert_problem(answer, 422, "invalid_request")
        assert answer.json()["errors"][0]["pointer"] == f"/{name}"


def test_the_past_has_the_order_and_the_health_of_then(edge: Edge) -> None:
    first, second, third = lines(edge, "worst-then", 3)
    edge.accept(signal(first, "red"), signal(third, "green"))
    edge.accept(blocked(second, time=later(edge)))
    query, then = "project_tag=worst-then", later(edge)
    edge.clock.advance(minutes=1)
    edge.accept(signal(first, "green"), signal(third, "red"), signal(second, "red"))
    edge.accept(
        fact("execution.unblocked", second, {"blocker_id": "B-1"}, time=later(edge)),
        blocked(third, time=later(edge)),
    )
    for more, expected in (
        ("&sort=state_since", [third, first, second]),
        ("&sort=health_score", [first, third, second]),
        ("&health=amber", [first]),
        ("&health=none,green", [third, second]),
        ("&health=green&sort=state_since&state=running", [third]),
    ):
        assert listed(edge, f"{query}{more}&as_of={then}") == expected, more
        assert listed(edge, f"{query}{more}") != expected, more
        if "sort" not in more:
            path = f"/v1/execution/summary?{query}{more}&as_of={then}"
            assert edge.data(path)["total"] == len(expected)
    assert paged(edge, f"/v1/execution?{query}&sort=health_score&as_of={then}", 1) == edge.data(
        f"/v1/execution?{query}&sort=health_score&as_of={then}"
    )
    # Without a project, an instant's lines are found along other indexes.
    found = paged(edge, f"/v1/execution?health=amber&as_of={then}", 9)
    assert {first, third} & {row["service_line_id"] for row in found} == {first}


@pytest.mark.parametrize(
    "query", ["sort=name", "sort=", "sort=state_since,health_score", "health=pink"]
)
def test_unknown_orders_and_statuses_are_refused(edge: Edge, query: str) -> None:
    assert_problem(edge.get(f"/v1/execution?{query}"), 422, "invalid_request")


def test_a_cursor_serves_only_the_order_and_the_filters_that_it_was_made_for(edge: Edge) -> None:
    lines(edge, "bound", 3)
    queries = [
        f"project_tag=bound{more}"
        for more in ("", "&sort=state_since", "&sort=health_score", "&sort=due_at", "&health=none",
                     "&sort=state_since&health=none", f"&organization_id={ORGANIZATION}",
                     "&resource_id=SCR-1")
    ]  # fmt: skip
    for query in queries[:-1]:
        cursor = edge.get(f"/v1/execution?{query}&limit=1").json()["meta"]["cursor"]
        for other in queries:
            answer = edge.get(f"/v1/execution?{other}&limit=1&cursor={cursor}")
            if other == query:
                assert len(answer.json()["data"]) == 1
            else:
                assert_problem(answer, 400, "invalid_cursor")


def test_a_cursor_is_that_of_its_request_where_another_request_has_the_same_answer(
    edge: Edge,
) -> None:
    lines(edge, "same-answer", 2)
    plain = "/v1/execution?project_tag=same-answer&limit=1"
    for path in (plain, plain, f"{plain}&organization_id={ORGANIZATION}", plain):
        cursor = edge.get(path).json()["meta"]["cursor"]
        assert len(edge.data(f"{path}&cursor={cursor}")) == 1


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("state_since", None), ("state_since", 5), ("state_since", "yesterday"),
        ("state_since", "0001-01-01T00:00:00+01:00"), ("health_score", None),
        ("due_at", 101), ("due_at", "2100-01-01T00:00:00Z"), ("due_at", False),
        ("health_score", -1), ("health_score", 102), ("health_score", "50"),
        ("health_score", True), ("health_score", 2**70), ("health_score", 1.5),
    ],
    ids=str,
)  # fmt: skip
def test_a_cursor_with_a_forged_key_is_refused(edge: Edge, sort: str, key: Any) -> None:
    edge.fresh()
    path = f"/v1/execution?sort={sort}&limit=1"
    cursor = edge.get(path).json()["meta"]["cursor"]
    document = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    forged = json.dumps(document | {"key": key}).encode()
    text = base64.urlsafe_b64encode(forged).rstrip(b"=").decode()
    assert_problem(edge.get(f"{path}&cursor={text}"), 400, "invalid_cursor")


@pytest.mark.parametrize(
    ("sort", "seed"), repeated([(sort, seed) for seed in range(3) for sort in SORTS])
)
def test_each_line_whose_key_stays_appears_once_while_other_keys_move(
    edge: Edge, sort: str, seed: int
) -> None:
    dice, tag = random.Random(seed), f"moving-{sort}-{seed}"
    ids = lines(edge, tag, 60)
    for line in dice.sample(ids, 40):
        edge.clock.advance(seconds=dice.choice([0, 0, 1]))
        time = format_instant(edge.clock.now)
        edge.accept(
            waits(line, "B-1", None, dice.choice([None, time])) | {"time": time},
            signal(line, dice.choice(["green", "amber", "red"])),
        )
    steady, moving = set(ids[::2]), ids[1::2]
    moves = 0

    def storm(page: int) -> None:
        nonlocal moves
        edge.clock.advance(seconds=1)
        edge.accept(activation(edge.fresh_id(), project_tags=[tag]))
        for line in dice.sample(moving, 6):
            kind = "paused" if page % 2 else "resumed"
            event = fact(f"service_line.{kind}", line, time=format_instant(edge.clock.now))
            moves += edge.send(event).status_code == 201
            edge.send(waits(line, "B-2", None, due(edge, days=dice.choice([-2, 2]))))
            edge.accept(signal(line, dice.choice(["green", "red"]), "delivery_velocity"))

    rows = paged(edge, f"/v1/execution?project_tag={tag}&sort={sort}", 7, storm)
    found = [row["service_line_id"] for row in rows]
    assert sorted(line for line in found if line in steady) == sorted(steady)
    assert moves > 20


@pytest.mark.parametrize("limit", [1, 3, 20, 100])
@pytest.mark.parametrize("sort", SORTS)
def test_a_list_in_pages_of_any_size_has_the_order_of_one_page(
    edge: Edge, sort: str, limit: int
) -> None:
    tag = f"pages-{sort}-{limit}"
    ids = lines(edge, tag, 20)
    days = itertools.cycle([None, due(edge, days=1), due(edge, days=2), due(edge, days=1)])
    edge.accept(
        *(signal(line, "red") for line in ids[::3]),
        *(waits(line, "B-1", None, day) for line, day in zip(ids[::2], days, strict=False)),
    )
    path = f"/v1/execution?project_tag={tag}&sort={sort}"
    assert paged(edge, path, limit) == edge.data(f"{path}&limit=100")
