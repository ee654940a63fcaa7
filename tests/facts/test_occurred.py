"""The feed and its export by the time at which events occurred (contract, Feeds)."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.values.values import format_instant
from ledger.features.facts.report import MAX_AHEAD
from ledger.features.feed.routes import feeds
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.feeds import OTHER, SIBLING, pages_of, readers
from tests.support.random_life import Life
from tests.support.soak import repeated

EXPORT, LIST = "/v1/events/export", "/v1/events"
MICROSECOND = timedelta(microseconds=1)
APART = "ORG-26-000004"

Event = dict[str, Any]
Filters = dict[str, str]


class World(NamedTuple):
    """Lines of two organizations that no test changes, and the tokens of their readers."""

    edge: Edge
    tokens: dict[str, str]
    lines: list[str]
    feeds: dict[str, list[Event]]
    """The whole feed of each reader; an administrator's before the tests of other lines."""


@pytest.fixture(scope="module")
def world(edge: Edge) -> World:
    tokens = readers(edge)
    tenants = [(ORGANIZATION, WORKSPACE), (ORGANIZATION, SIBLING), (OTHER, WORKSPACE)]
    lives = [
        Life(edge, seed, tokens["admin"], organization_id=organization, workspace_id=workspace)
        for seed, (organization, workspace) in enumerate(tenants)
    ]
    for life in lives * 5:
        life.live(5)
    lives[1].close()
    whole = {reader: pages_of(edge, LIST, token, {})[1] for reader, token in tokens.items()}
    assert len(whole["admin"]) > 150
    return World(edge, tokens, [life.line for life in lives], whole)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def matches(event: Event, filters: Filters) -> bool:
    """True if an event matches the filters, as the contract defines them."""
    times = {name: instant(filters[name]) for name in BOUNDS if name in filters}
    occurred, recorded = instant(event["occurred_at"]), instant(event["recorded_at"])
    return (
        times.get("occurred_from", occurred) <= occurred
        and occurred < times.get("occurred_to", occurred + MICROSECOND)
        and times.get("from", recorded) <= recorded
        and recorded < times.get("to", recorded + MICROSECOND)
        and all(event[name] == filters[name] for name in IDS if name in filters)
        and event["type"] in filters.get("type", event["type"]).split(",")
        and event["position"] > int(filters.get("after", "EVT-26-000000").rsplit("-", 1)[1])
    )


IDS = ("organization_id", "service_line_id")
BOUNDS = ("occurred_from", "occurred_to", "from", "to")


def paged(edge: Edge, token: str, filters: Filters, limits: Sequence[int]) -> list[Event]:
    """The events of all pages; each page but the last one is full."""
    params, events = dict[str, Any](filters), list[Event]()
    for limit in limits:
        page = page_of(edge, token, **params, limit=limit)
        events += page["data"]
        if not page["meta"]["has_more"]:
            return events
        assert len(page["data"]) == limit
        params["cursor"] = page["meta"]["cursor"]
    raise AssertionError("the walk has no end")


def page_of(edge: Edge, token: str, **params: Any) -> Any:
    answer = edge.get(LIST, token, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("examples", repeated([12, 400]))
def test_pages_and_export_have_exactly_the_events_that_occurred_in_the_period(
    world: World, examples: int
) -> None:
    events = world.feeds["admin"]
    occurred = sorted({event["occurred_at"] for event in events}, key=instant)
    recorded = [event["recorded_at"] for event in events[::9]]
    periods = st.lists(st.sampled_from(occurred), min_size=2, max_size=2)
    some = {
        "service_line_id": st.sampled_from(world.lines),
        "type": st.sampled_from(["execution.checked_in", "run.started,run.failed", "run.erased"]),
        "from": st.sampled_from(recorded[: len(recorded) // 2]),
        "to": st.sampled_from(recorded[len(recorded) // 2 :]),
        "after": st.sampled_from([event["id"] for event in events[::9]]),
    }
    compared: list[int] = []

    @given(
        reader=st.sampled_from(sorted(world.tokens)),
        period=periods.map(lambda pair: sorted(pair, key=instant)),
        bounds=st.sampled_from([BOUNDS[:1], BOUNDS[1:2], BOUNDS[:2]]),
        filters=st.fixed_dictionaries({}, optional=some),
        limits=st.lists(st.sampled_from([1, 3, 25, 100]), min_size=1, max_size=3),
    )
    @settings(max_examples=examples, deadline=None)
    def check(
        reader: str, period: list[str], bounds: Filters, filters: Filters, limits: list[int]
    ) -> None:
        filters = filters | {name: period[BOUNDS.index(name)] for name in bounds}
        if reader == "admin":
            filters["organization_id"] = OTHER
        expected = [event for event in world.feeds[reader] if matches(event, filters)]
        token = world.tokens[reader]
        assert paged(world.edge, token, filters, limits * len(events)) == expected
        exported = world.edge.get(EXPORT, token, params=filters).text
        assert [json.loads(line) for line in exported.splitlines()] == expected
        compared.append(len(expected))

    check()
    assert sum(map(bool, compared)) >= max(1, examples // 20), "most stretches may be empty"


def test_a_date_means_its_beginning_in_utc(world: World) -> None:
    day = world.feeds["own"][len(world.feeds["own"]) // 2]["occurred_at"][:10]
    for names in (["occurred_from"], ["occurred_to"]):
        by_date = paged(world.edge, world.tokens["own"], dict.fromkeys(names, day), [100] * 9)
        by_instant = dict.fromkeys(names, f"{day}T00:00:00Z")
        assert by_date == [e for e in world.feeds["own"] if matches(e, by_instant)]
        assert 0 < len(by_date) < len(world.feeds["own"])


# Pages that scan for long.


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page scan once, one event more than its limit."""
    monkeypatch.setattr(feeds, "SCAN_SECONDS", 0.0)


def test_a_page_that_would_search_for_too_long_ends_early_and_its_cursor_goes_on(
    world: World, in_no_time: None
) -> None:
    own = world.feeds["own"]
    rare = sorted(own, key=lambda event: instant(event["occurred_at"]))[:3]
    wanted = {"occurred_to": format_instant(instant(rare[-1]["occurred_at"]) + MICROSECOND)}
    expected = [event for event in own if matches(event, wanted)]
    for limit in (1, 2, 7):
        params, lengths, found = {**wanted, "limit": limit}, list[int](), list[Event]()
        has_more = True
        while has_more:
            page = page_of(world.edge, world.tokens["own"], **params)
            lengths.append(len(page["data"]))
            found += page["data"]
            params["cursor"], has_more = page["meta"].values()
        assert found == expected
        # Each page but a full one is behind the events that it has scanned.
        assert (len(own) - len(expected)) // (limit + 1) <= len(lengths) <= len(own) // limit + 1
        assert lengths.count(0) > len(lengths) // 2


def test_the_read_begins_five_minutes_before_the_period(edge: Edge, in_no_time: None) -> None:
    """No event is recorded more than five minutes before it occurred."""
    token = edge.token("read", "write", organization_id=APART)
    line = edge.fresh(organization_id=APART, token=token)
    edge.accept(*(fact("execution.checked_in", line) for _ in range(50)), token=token)
    edge.clock.advance(hours=1)
    at = format_instant(edge.clock.now + MAX_AHEAD)
    edge.accept(fact("execution.checked_in", line, {"hours": 7}, time=at), token=token)
    (found,) = page_of(edge, token, occurred_from=at, limit=1)["data"]
    assert (found["occurred_at"], found["payload"]["hours"]) == (at, 7)
    # A bound of the recording holds besides.
    late = format_instant(edge.clock.now + timedelta(seconds=1))
    assert page_of(edge, token, **{"occurred_from": at, "from": late})["data"] == []


# Cursors.


def test_a_cursor_goes_on_with_events_that_are_recorded_later(edge: Edge) -> None:
    token = edge.token("read", "write", organization_id=APART)
    line = edge.fresh(organization_id=APART, token=token)
    now = edge.clock.now
    period = {"occurred_from": format_instant(now), "occurred_to": format_instant(now + MAX_AHEAD)}
    params: dict[str, Any] = {"service_line_id": line, **period}

    def work(hours: int, minutes: int = 0) -> None:
        time = format_instant(now + timedelta(minutes=minutes))
        event = fact("execution.checked_in", line, {"hours": hours}, time=time)
        edge.accept(event, token=token)

    def hours() -> list[int]:
        page = page_of(edge, token, **params)
        assert page["meta"]["has_more"] is False
        params["cursor"] = page["meta"]["cursor"]
        return [event["payload"]["hours"] for event in page["data"]]

    assert page_of(edge, token, **params | {"limit": 1})["data"][0]["type"] == "execution.started"
    params["type"] = "execution.checked_in"
    empty = page_of(edge, token, **params)
    assert empty == {"data": [], "meta": {"cursor": None, "has_more": False}}
    work(1), work(2, minutes=-1), work(3)
    assert hours() == [1, 3]
    cursor = params["cursor"]
    work(4, minutes=-1)
    assert hours() == []
    assert params["cursor"] == cursor
    edge.clock.advance(days=40)
    work(5, minutes=60), work(6, minutes=4)
    assert hours() == [6]


# Refusals.


@pytest.mark.parametrize("path", [LIST, EXPORT])
def test_a_period_that_ends_before_its_start_is_a_422_at_its_end(world: World, path: str) -> None:
    params = {"occurred_from": "2026-04-16", "occurred_to": "2026-04-15T23:59:59Z"}
    problem = assert_problem(world.edge.get(path, params=params), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/occurred_to"]
    for query in ("occurred_from=yesterday", "occurred_to=", "occurred_to=2026-04-15T00:00:00"):
        problem = assert_problem(world.edge.get(f"{path}?{query}"), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


@pytest.mark.parametrize(
    "path", ["/v1/events/stream", "/v1/audit-logs", "/v1/audit-logs/export", "/v1/runs"]
)
def test_no_other_list_accepts_the_time_of_events(world: World, path: str) -> None:
    params = {"organization_id": ORGANIZATION, "occurred_from": "2026-04-15"}
    token = world.edge.token("read", "audit:read")
    assert_problem(world.edge.get(path, token, params=params), 422, "invalid_request")
