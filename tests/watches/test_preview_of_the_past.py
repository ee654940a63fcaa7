"""The preview of a period lists the alerts that a watch would have opened (contract, Watches)."""

import random
from datetime import timedelta
from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.soak import repeated
from tests.watches.test_sources_api import Tenant

BLOCKED = {"kind": "in_state", "states": ["blocked"]}
STUCK = {"kind": "in_state", "states": ["paused", "blocked"]}
GAPS = {"kind": "blocker_open", "causes": ["approval_gap"]}


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return Tenant(edge)


def say(tenant: Tenant, type: str, line: str, data: Any = None, **more: Any) -> None:
    at = {"time": f"{tenant.edge.clock.now:%Y-%m-%dT%H:%M:%S.%fZ}"}
    tenant.edge.accept(fact(type, line, data, **at | more), token=tenant.token)


def period(edge: Edge, **length: float) -> dict[str, str]:
    begin = edge.clock.now - timedelta(**length)
    return {"from": begin.isoformat(), "to": (edge.clock.now + timedelta(hours=1)).isoformat()}


def refusal(tenant: Tenant, **body: Any) -> list[str]:
    sent = {"condition": BLOCKED, "for_seconds": 60} | body
    answer = tenant.edge.post("/v1/watches/preview", tenant.token, json=sent)
    problem = assert_problem(answer, 422, "invalid_request")
    return [each["pointer"] for each in problem["errors"]]


def test_an_episode_that_was_long_enough_is_told_with_its_end(tenant: Tenant, edge: Edge) -> None:
    block = {"blocker_id": "b", "cause": "approval_gap", "reason": "Not approved"}
    edge.clock.advance(seconds=1)
    since = edge.clock.now
    say(tenant, "execution.blocked", tenant.line, block)
    edge.clock.advance(minutes=10)
    ended = edge.clock.now
    say(tenant, "execution.unblocked", tenant.line, {"blocker_id": "b"})
    edge.clock.advance(minutes=1)
    say(tenant, "execution.blocked", tenant.line, block)
    edge.clock.advance(seconds=59)
    for condition in (BLOCKED, GAPS):
        view = tenant.preview(condition, for_seconds=60, **period(edge, hours=1))
        (row,) = view["data"]
        assert row["since"] == f"{since:%Y-%m-%dT%H:%M:%SZ}"
        assert row["until"] == f"{ended:%Y-%m-%dT%H:%M:%SZ}"
        assert row["text"].endswith("has been blocked for 1 min by an approval gap: Not approved.")
        assert view["meta"] == {"count": 1, "truncated": False}
    edge.clock.advance(seconds=1)
    rows = tenant.preview(BLOCKED, for_seconds=60, **period(edge, hours=1))["data"]
    assert [row["until"] is None for row in rows] == [True, False]
    assert tenant.preview(BLOCKED, for_seconds=60, **period(edge, minutes=10))["meta"]["count"] == 1


def test_a_late_fact_counts_when_it_happened(tenant: Tenant, edge: Edge) -> None:
    edge.clock.advance(hours=3)
    time = (edge.clock.now - timedelta(hours=1)).isoformat()
    block = {"blocker_id": "b", "cause": "approval_gap"}
    say(tenant, "execution.blocked", tenant.line, block, time=time)
    (row,) = tenant.preview(BLOCKED, for_seconds=60, **period(edge, minutes=70))["data"]
    assert row["since"][:19] == time[:19]
    assert tenant.preview(BLOCKED, for_seconds=60, **period(edge, minutes=50))["data"] == []


@pytest.mark.parametrize(
    ("condition", "seed"),
    repeated(
        [(condition, seed) for seed in range(1, 5) for condition in (STUCK, GAPS, BLOCKED)], 2
    ),
    ids=str,
)
def test_the_preview_equals_what_a_watch_has_opened_where_every_fact_came_in_time(
    tenant: Tenant, edge: Edge, seed: int, condition: dict[str, Any]
) -> None:
    dice, begin = random.Random(seed), edge.clock.now
    lines = [tenant.line, edge.fresh(organization_id=tenant.id, token=tenant.token)]
    watch = {"name": "w", "condition": condition, "for_seconds": 90}
    assert edge.post("/v1/watches", tenant.token, json=watch).status_code == 201
    for _ in range(40):
        edge.clock.advance(seconds=dice.uniform(5, 80))
        edge.run_watches()
        line, blocker = dice.choice(lines), dice.choice("ab")
        cause = dice.choice(["approval_gap", "capacity_issue"])
        type, data = dice.choice(
            [
                ("execution.blocked", {"blocker_id": blocker, "cause": cause}),
                ("execution.unblocked", {"blocker_id": blocker}),
                ("service_line.paused", {}),
                ("service_line.resumed", {}),
            ]
        )
        at = {"time": f"{edge.clock.now:%Y-%m-%dT%H:%M:%S.%fZ}"}
        edge.send_batch(fact(type, line, data, **at), token=tenant.token)
    edge.clock.advance(seconds=100)
    edge.run_watches()
    opened = edge.data("/v1/alerts?limit=100", tenant.token)
    whole = {"from": begin.isoformat(), "to": edge.clock.now.isoformat()}
    found = tenant.preview(condition, for_seconds=90, **whole)["data"]
    assert len(opened) >= 2
    assert sorted(
        (alert["due"], alert["service_line_id"], alert["subject"]["id"], alert["since"])
        for alert in opened
    ) == sorted(
        (row["due"], row["service_line_id"], row["subject"]["id"], row["since"]) for row in found
    )
    ends = {(each["due"], each["subject"]["id"]): each["until"] for each in found}
    for alert in opened:
        resolved = alert["resolved"] and alert["resolved"]["at"]
        assert ends[alert["due"], alert["subject"]["id"]] == resolved


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"from": "2026-04-01"}, "/to"),
        ({"to": "2026-04-01"}, "/from"),
        ({"from": "2026-04-02", "to": "2026-04-01"}, "/to"),
        ({"from": "2026-01-01", "to": "2026-04-04"}, "/to"),
        (
            {"from": "2026-04-01", "to": "2026-04-02", "condition": {"kind": "past_due"}},
            "/from",
        ),
    ],
)
def test_a_period_that_cannot_be_read_is_refused(
    tenant: Tenant, body: dict[str, Any], pointer: str
) -> None:
    assert refusal(tenant, **body) == [pointer]
