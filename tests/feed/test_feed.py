"""The feed: the histories of all lines in log order; filters, pages, tenants (contract, Feeds)."""

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import httpx
import pytest

from ledger.engine.values.values import format_instant
from ledger.features.feed.published import TYPES
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.feeds import ENVELOPE, OTHER, SIBLING, readers
from tests.support.random_life import SECRET, Life, history_of

APART = "ORG-26-000004"

Event = dict[str, Any]


class World(NamedTuple):
    """Lines of two organizations that share a workspace id, and the tokens of several readers."""

    edge: Edge
    lines: list[str]
    expected: list[Event]
    """All events that the feed must carry, computed from the histories of the lines."""
    tokens: dict[str, str]
    sees: dict[str, Callable[[Event], bool]]


@pytest.fixture(scope="module")
def world(edge: Edge) -> World:
    tokens = readers(edge)
    tenants = [(ORGANIZATION, WORKSPACE), (ORGANIZATION, SIBLING), (OTHER, WORKSPACE)]
    lives = [
        Life(edge, seed, tokens["admin"], organization_id=organization, workspace_id=workspace)
        for seed, (organization, workspace) in enumerate(tenants * 2)
    ]
    for _ in range(5):
        for life in lives:
            life.live(6)
            refused = edge.send(fact("service_line.resumed", "LIN-26-999999", {}))
            assert_problem(refused, 404, "not_found")
    lives[0].close()
    events = [e for life in lives for e in history_of(edge, life.line, token=tokens["admin"])]
    for event in events:
        del event["state_before"], event["state_after"]
    events.sort(key=lambda event: event["position"])
    events = without_unchanged_health(events)
    return World(
        edge,
        [life.line for life in lives],
        events,
        tokens,
        {
            "admin": lambda _: True,
            "own": lambda e: e["organization_id"] == ORGANIZATION,
            "narrow": lambda e: (
                e["organization_id"] == ORGANIZATION and e["workspace_id"] == SIBLING
            ),
            "other": lambda e: e["organization_id"] == OTHER,
            "stranger": lambda _: False,
        },
    )


def without_unchanged_health(events: list[Event]) -> list[Event]:
    """The events without health reports that leave the status of their signal as it was."""
    changed, statuses = [], dict[tuple[str, str], str]()
    for event in events:
        if event["type"].startswith("health."):
            signal = event["service_line_id"], event["payload"]["signal"]
            before, statuses[signal] = statuses.get(signal), event["payload"]["status"]
            if statuses[signal] == before:
                continue
        changed.append(event)
    assert 0 < len(changed) < len(events)
    return changed


def page(edge: Edge, token: str | None = None, **params: Any) -> Any:
    answer = edge.get("/v1/events", token, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def follow(
    edge: Edge, token: str, limits: Callable[[], int] = lambda: 100, **params: Any
) -> list[Event]:
    """All events that match the filters, page by page."""
    events: list[Event] = []
    while True:
        limit = limits()
        answered = page(edge, token, **params, limit=limit)
        if events and answered["data"]:
            assert events[-1]["position"] < answered["data"][0]["position"]
        events += answered["data"]
        assert len(answered["data"]) <= limit
        if not answered["meta"]["has_more"]:
            return events
        assert len(answered["data"]) == limit
        params["cursor"] = answered["meta"]["cursor"]


# Content.


@pytest.mark.parametrize("who", ["admin", "own", "narrow", "other", "stranger"])
def test_the_feed_is_the_histories_in_log_order_without_unchanged_health(
    world: World, who: str
) -> None:
    found = follow(world.edge, world.tokens[who])
    assert found == [event for event in world.expected if world.sees[who](event)]
    positions = [event["position"] for event in found]
    assert positions == sorted(set(positions))


def test_the_workload_has_many_events_and_every_type(world: World) -> None:
    assert len(world.expected) > 400
    assert {event["type"] for event in world.expected} == TYPES.keys() - {
        "execution.hold_changed",
        "webhook.delivery_failed",
        "run.erased",
        "directory.named",
        "statement.issued",
        "statement.withdrawn",
        "alert.opened",
        "alert.reminded",
        "alert.acknowledged",
        "alert.resolved",
    }


def test_the_feed_is_the_same_in_pages_of_any_size(world: World) -> None:
    dice = random.Random(7)
    for who in ("own", "admin"):
        found = follow(world.edge, world.tokens[who], lambda: dice.choice([1, 2, 7, 30, 100]))
        assert found == [event for event in world.expected if world.sees[who](event)]


def test_each_event_has_the_keys_of_the_envelope_and_an_id_of_year_and_position(
    world: World,
) -> None:
    events = follow(world.edge, world.tokens["admin"])
    assert len(events) == len(world.expected)
    for event in events:
        assert list(event) == ENVELOPE
        year = datetime.fromisoformat(event["recorded_at"]).year % 100
        assert event["id"] == f"EVT-{year:02d}-{event['position']:06d}"
        assert ("state_after" in event["payload"]) == event["type"].startswith("execution.")


def test_the_feed_never_carries_a_runs_input_output_or_error(world: World) -> None:
    assert SECRET not in json.dumps(follow(world.edge, world.tokens["admin"]))


# Filters.


def matches(event: Event, params: dict[str, Any]) -> bool:
    """True if an event matches the filters, as the contract defines them."""
    at = datetime.fromisoformat(event["recorded_at"])
    named = ("organization_id", "workspace_id", "service_line_id")
    return (
        all(event[name] == params[name] for name in named if name in params)
        and event["type"] in params.get("type", event["type"]).split(",")
        and ("from" not in params or at >= datetime.fromisoformat(params["from"]))
        and ("to" not in params or at < datetime.fromisoformat(params["to"]))
        and ("after" not in params or event["position"] > int(params["after"].rsplit("-", 1)[1]))
    )


def some_filters(world: World, dice: random.Random) -> dict[str, Any]:
    """Random filters, with values that occur in the feed and values that do not."""
    events = world.expected
    types = sorted(TYPES)
    start, end = sorted(dice.choice(events)["recorded_at"] for _ in range(2))
    every = {
        "organization_id": dice.choice([ORGANIZATION, OTHER, "ORG-26-000009"]),
        "workspace_id": dice.choice([WORKSPACE, SIBLING, "WS-26-000009"]),
        "service_line_id": dice.choice([*world.lines, "LIN-26-999999"]),
        "type": ",".join(dice.sample(types, dice.choice([1, 2, 6]))),
        "from": start,
        "to": end,
        "after": dice.choice([dice.choice(events)["id"], "EVT-26-000000", "EVT-26-999999999"]),
    }
    return {name: value for name, value in every.items() if dice.random() < 0.35}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("who", ["admin", "own", "narrow", "other"])
def test_every_combination_of_filters_finds_exactly_the_matching_events(
    world: World, who: str, seed: int
) -> None:
    dice = random.Random(f"{who} {seed}")
    for _ in range(6):
        params = some_filters(world, dice)
        found = follow(world.edge, world.tokens[who], lambda: dice.choice([3, 25, 100]), **params)
        expected = [e for e in world.expected if world.sees[who](e) and matches(e, params)]
        assert found == expected, params


@pytest.mark.parametrize("type_", TYPES)
def test_the_type_filter_finds_all_events_of_each_type(world: World, type_: str) -> None:
    for who in ("own", "admin"):
        found = follow(world.edge, world.tokens[who], type=type_)
        expected = [e for e in world.expected if world.sees[who](e) and e["type"] == type_]
        assert found == expected


def test_a_type_that_is_named_twice_gives_each_event_once(world: World) -> None:
    found = follow(world.edge, world.tokens["own"], type="run.started,run.started")
    assert found == follow(world.edge, world.tokens["own"], type="run.started") != []


def test_from_is_inclusive_and_to_exclusive_to_the_microsecond(world: World) -> None:
    events = [event for event in world.expected if world.sees["own"](event)]
    micro = timedelta(microseconds=1)
    for at in (0, len(events) // 2, len(events) - 1):
        when = datetime.fromisoformat(events[at]["recorded_at"])
        for start in (when, when - micro, when + micro):
            later = [e for e in events if datetime.fromisoformat(e["recorded_at"]) >= start]
            found = follow(world.edge, world.tokens["own"], **{"from": format_instant(start)})
            assert found == later
            found = follow(world.edge, world.tokens["own"], to=format_instant(start))
            assert found == events[: len(events) - len(later)]


def test_from_and_to_accept_dates_and_any_offset(world: World) -> None:
    edge, token = world.edge, world.tokens["own"]
    when = datetime.fromisoformat(world.expected[200]["recorded_at"])
    shifted = when.astimezone(timezone(timedelta(hours=5))).isoformat()
    assert follow(edge, token, to=shifted) == follow(edge, token, to=format_instant(when))
    assert follow(edge, token, **{"from": "2090-01-01"}) == []
    assert follow(edge, token, to="2026-01-01") == []
    assert follow(edge, token, **{"from": "2026-01-01"}) == follow(edge, token)


# Cursors.


@pytest.fixture
def apart(edge: Edge) -> tuple[str, str]:
    """A new line of an organization that ``world`` does not use, and a token for it."""
    token = edge.token("read", "write", organization_id=APART)
    return edge.fresh(organization_id=APART, token=token), token


def test_a_cursor_continues_after_its_page_when_later_events_arrive(
    edge: Edge, apart: tuple[str, str]
) -> None:
    line, token = apart
    params: dict[str, Any] = {"service_line_id": line, "limit": 2, "token": token}
    first = page(edge, **params)
    assert (len(first["data"]), first["meta"]["has_more"]) == (1, False)
    params["cursor"] = first["meta"]["cursor"]
    empty = page(edge, **params)
    assert empty == {"data": [], "meta": {"cursor": params["cursor"], "has_more": False}}
    check_ins = [fact("execution.checked_in", line, {"hours": n}) for n in range(3)]
    edge.accept(*check_ins, token=token)
    second = page(edge, **params)
    assert [event["payload"]["hours"] for event in second["data"]] == [0, 1]
    assert second["meta"]["has_more"]
    third = page(edge, **params | {"cursor": second["meta"]["cursor"]})
    assert [event["payload"]["hours"] for event in third["data"]] == [2]
    assert not third["meta"]["has_more"]


def test_an_empty_page_that_was_requested_without_a_cursor_has_no_cursor(world: World) -> None:
    answered = page(world.edge, service_line_id="LIN-26-999999")
    assert answered == {"data": [], "meta": {"cursor": None, "has_more": False}}


def test_a_full_page_that_ends_with_the_last_event_has_no_more(
    edge: Edge, apart: tuple[str, str]
) -> None:
    line, token = apart
    edge.accept(fact("execution.checked_in", line), token=token)
    for limit, more in ((1, True), (2, False), (3, False)):
        answered = page(edge, token, service_line_id=line, limit=limit)
        assert answered["meta"]["has_more"] is more


# Refusals.


@pytest.mark.parametrize(
    "query",
    [
        "x=1", "as_of=2026-04-15", "type=", "type=run.praised", "type=run.started,",
        "type=health.signal_reported", "type=write.refused", "limit=0", "limit=101", "limit=x",
        "after=", "after=5", "after=RUN-26-000001", "after=EVT-26-1", "after=AUD-26-000001",
        "from=yesterday", "to=2026-04-15T00:00:00", "from=2026-04-16&to=2026-04-15", "from=",
        "organization_id=", "workspace_id=", "service_line_id=", "type=run.started%00",
        "service_line_id=%00", "limit=1&limit=2", "state=running", "Type=run.started",
    ],
)  # fmt: skip
def test_an_unknown_parameter_or_value_is_a_422(world: World, query: str) -> None:
    assert_problem(world.edge.get(f"/v1/events?{query}"), 422, "invalid_request")


# Single events.


def get_event(world: World, identifier: str, who: str = "own") -> httpx.Response:
    return world.edge.get(f"/v1/events/{identifier}", world.tokens[who])


@pytest.mark.parametrize("who", ["admin", "own", "narrow", "other", "stranger"])
def test_an_event_by_its_id_equals_the_feeds_event_or_is_a_404(world: World, who: str) -> None:
    for event in random.Random(5).sample(world.expected, 40):
        answer = get_event(world, event["id"], who)
        if world.sees[who](event):
            assert answer.json() == {"data": event}
            assert int(answer.headers["ledger-position"]) >= event["position"]
        else:
            assert_problem(answer, 404, "not_found")


def test_an_event_that_no_feed_carries_is_a_404_by_its_id(world: World) -> None:
    published = {event["position"] for event in world.expected}
    rows = world.edge.select("SELECT notification_id, topic FROM ledger.ledger_events")
    hidden = [
        (position, topic)
        for position, topic in rows
        if position not in published and not topic.startswith(("execution.", "run.", "resource."))
    ]
    assert {topic.split("/")[0] for _, topic in hidden} >= {"api_key.created", "write.refused"}
    for position, _ in random.Random(3).sample(hidden, 20):
        assert_problem(get_event(world, f"EVT-26-{position:06d}", "admin"), 404, "not_found")


@pytest.mark.parametrize("form", ["EVT-25-%06d", "EVT-27-%06d", "EVT-26-0%06d", "AUD-26-%06d",
    "evt-26-%06d", "EVT-26-%d", "%06d", "EVT-26-%06d%%20", "EVT-26-%06d%%00"])  # fmt: skip
def test_an_event_id_in_another_form_or_of_another_year_is_a_404(world: World, form: str) -> None:
    event = next(event for event in world.expected if event["position"] < 100_000)
    assert_problem(get_event(world, form % event["position"], "admin"), 404, "not_found")


def test_a_write_is_in_the_feed_when_it_is_answered(edge: Edge, apart: tuple[str, str]) -> None:
    line, token = apart
    for number in range(10):
        answer = edge.send(fact("execution.checked_in", line, {"hours": number}), token)
        item = answer.json()["data"]
        found = edge.get(f"/v1/events/{item['event_ids'][0]}", token)
        assert found.json()["data"]["payload"]["hours"] == number
        feed = edge.get("/v1/events", token, params={"service_line_id": line, "limit": 100})
        assert feed.json()["data"][-1]["id"] == item["event_ids"][0]
        assert int(feed.headers["ledger-position"]) >= item["position"]
