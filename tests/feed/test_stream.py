"""The feed as a stream: the events of the pull feed, in its order, each once (contract, Feeds)."""

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.feed.stream import Streams
from ledger.features.feed.tail import Tail
from ledger.features.keys.commands import RevokeApiKey
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact
from tests.support.random_life import Life
from tests.support.soak import repeated
from tests.support.streaming import STREAM, Address, Listener, feed_of, listening
from tests.support.views import until

OTHERS = {"organization_id": "ORG-26-000002", "workspace_id": "WS-26-000002"}
SIBLING = {"workspace_id": "WS-26-000003"}


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[Address]:
    """The port of the shared service. Its streams time out early and have a small memory."""
    services = edge.service.app.state.services
    streams = Streams(
        Tail(services.pool.fetch, services.positions, rows=40),
        services.pool.fetch,
        services.authenticator.lapsed,
        most=600,
        ping_seconds=0.1,
        send_timeout=0.5,
    )
    services.add(streams)
    with listening(edge) as address:
        yield address


@pytest.fixture(scope="module")
def token(edge: Edge) -> str:
    return edge.token("read")


@pytest.fixture(scope="module")
def admin(edge: Edge) -> str:
    return edge.token("admin", organization_id=None)


def check_in(line: str, **data: Any) -> dict[str, Any]:
    return fact("execution.checked_in", line, {"hours": 1} | data)


def last_id(items: list[dict[str, Any]]) -> str:
    return str(items[-1]["event_ids"][-1])


# Opening.


def test_a_stream_says_at_once_that_it_is_open(edge: Edge, address: Address, token: str) -> None:
    edge.fresh()
    with Listener(address, token) as listener:
        answer = listener.opened().answer
        assert listener.comments
        assert listener.retry is not None
        headers = answer.headers
        assert headers["content-type"].partition(";")[0] == "text/event-stream"
        assert headers["cache-control"] == "private, no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert listener.position == edge.log()[0][0]
        assert headers["x-request-id"]


def test_a_stream_from_now_on_gives_only_later_events(
    edge: Edge, address: Address, token: str
) -> None:
    line = edge.fresh()
    with Listener(address, token) as listener:
        items = edge.accept(check_in(line), check_in(line))
        found = listener.take(2)
    assert [event["id"] for event in found] == [item["event_ids"][0] for item in items]
    assert found == feed_of(edge, token, service_line_id=line)[-2:]


def test_a_client_that_is_cut_before_its_first_event_misses_nothing(
    edge: Edge, address: Address, token: str
) -> None:
    line = edge.fresh()
    with Listener(address, token) as listener:
        listener.opened()
        # An id without data is no message, but the client sends it when it reconnects.
        identifier, data = listener.block() or (None, [])
        assert data == []
        assert identifier is not None
        assert int(identifier.rsplit("-", 1)[1]) == listener.position
    edge.accept(check_in(line))
    with Listener(address, token, last_event_id=identifier) as listener:
        assert listener.take(1) == feed_of(edge, token, service_line_id=line)[-1:]


def test_a_quiet_stream_is_kept_alive(edge: Edge, address: Address, token: str) -> None:
    with Listener(address, token) as listener:
        until(lambda: listener.block() is not None and listener.comments.count("ping") > 2, "pings")


# Events.


def test_pollers_and_streams_see_the_same_events_in_the_same_order(
    edge: Edge, address: Address, token: str
) -> None:
    start = last_id(edge.accept(activation(edge.fresh_id())))
    streams = [Listener(address, token, f"after={start}") for _ in range(3)]
    found: list[list[dict[str, Any]]] = [[] for _ in streams]
    marker = edge.fresh_id()

    def follow(listener: Listener, events: list[dict[str, Any]]) -> None:
        while not events or events[-1]["subject"]["id"] != marker:
            events += listener.take(1)

    threads = [
        threading.Thread(target=follow, args=pair) for pair in zip(streams, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for seed in range(3):
        Life(edge, seed).live(25)
    edge.accept(activation(marker))
    for thread, listener in zip(threads, streams, strict=True):
        thread.join(20)
        listener.close()
    expected = feed_of(edge, token, after=start)
    assert len(expected) > 150
    assert "health.changed" in {event["type"] for event in expected}
    for events in found:
        assert events == expected


@pytest.mark.parametrize("times", repeated([80, 1_000]))
def test_resuming_many_times_gives_exactly_the_feed(
    edge: Edge, address: Address, token: str, times: int
) -> None:
    line, dice = edge.fresh(), random.Random(4)
    cursor = start = last_id(edge.accept(check_in(line)))
    edge.accept(*(check_in(line) for _ in range(900)))
    found: list[dict[str, Any]] = []
    for number in range(times):
        if number % 10 == 0:
            # After these writes many streams resume within the events that memory holds.
            edge.accept(*(check_in(line) for _ in range(11)))
        by_header = number % 2 == 0
        query = "" if by_header else f"after={cursor}"
        with Listener(address, token, query, cursor if by_header else None) as listener:
            found += listener.take(dice.choice([0, 1, 1, 2, 3]))
        cursor = found[-1]["id"] if found else cursor
    with Listener(address, token, f"after={cursor}") as listener:
        end = last_id(edge.accept(check_in(line)))
        found += listener.until(end)
    assert found == feed_of(edge, token, after=start)


def test_last_event_id_wins_over_the_parameter_after(
    edge: Edge, address: Address, token: str
) -> None:
    items = edge.accept(*(check_in(edge.fresh()) for _ in range(3)))
    first, second, third = (item["event_ids"][0] for item in items)
    with Listener(address, token, f"after={first}", last_event_id=second) as listener:
        assert listener.take(1)[0]["id"] == third


FILTERS: list[dict[str, str]] = [
    {},
    {"type": "execution.checked_in,run.started"},
    {"type": "execution.blocked"},
    {"organization_id": ORGANIZATION},
    {"organization_id": OTHERS["organization_id"]},
    {"workspace_id": WORKSPACE},
    {"workspace_id": SIBLING["workspace_id"], "type": "execution.started"},
    {"service_line_id": "LINE"},
    {"service_line_id": "LINE", "type": "run.started", "organization_id": ORGANIZATION},
]


@pytest.mark.parametrize("who", ["organization", "workspace", "admin"])
def test_every_filter_gives_the_same_events_as_by_pull(
    edge: Edge, address: Address, admin: str, who: str
) -> None:
    """Half of the events come from the table, half from memory while the stream is open."""
    key = {
        "organization": edge.token("read"),
        "workspace": edge.token("read", workspace_id=WORKSPACE),
        "admin": admin,
    }[who]
    start = last_id(edge.accept(activation(edge.fresh_id())))
    lines = [edge.fresh(token=admin, **more) for more in ({}, OTHERS, SIBLING)]

    def report_facts() -> None:
        for line in lines:
            facts = [
                check_in(line),
                fact("run.started", None, {"service_line_id": line}),
                fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"}),
                fact("execution.unblocked", line, {"blocker_id": "b"}),
            ]
            edge.accept(*facts, token=admin)

    report_facts()
    filters = [
        {name: lines[0] if value == "LINE" else value for name, value in params.items()}
        for params in FILTERS
    ]
    queries = ["&".join([f"after={start}", *map("=".join, p.items())]) for p in filters]
    listeners = [Listener(address, key, query).opened() for query in queries]
    report_facts()
    for params, listener in zip(filters, listeners, strict=True):
        expected = feed_of(edge, key, after=start, **params)
        with listener:
            assert listener.take(len(expected)) == expected
    if who != "admin":
        assert feed_of(edge, key, after=start, organization_id=OTHERS["organization_id"]) == []


def test_a_health_report_that_changes_no_status_is_not_streamed(
    edge: Edge, address: Address, token: str
) -> None:
    line = edge.fresh()
    report = {"signal": "sla_compliance", "status": "amber"}
    with Listener(address, token, f"service_line_id={line}") as listener:
        for status in ("amber", "amber", "green", "green"):
            edge.accept(fact("health.signal_reported", line, report | {"status": status}))
        edge.accept(check_in(line))
        found = listener.take(3)
    published = [(event["type"], event["payload"].get("status")) for event in found]
    assert published == [
        ("health.changed", "amber"),
        ("health.changed", "green"),
        ("execution.checked_in", None),
    ]


# Permissions and refusals.


@pytest.mark.parametrize(
    "query",
    [
        "after=EVT-26-1", "after=AUD-26-000001", "after=", "after=EVT-26-000001%0A",
        "type=run.begun", "from=2026-01-01", "limit=5", "cursor=x", "service_line_id=",
        "after=EVT-26-000001&after=EVT-26-000002",
    ],
)  # fmt: skip
def test_an_unknown_or_wrong_parameter_is_a_422(edge: Edge, query: str) -> None:
    assert_problem(edge.get(f"{STREAM}?{query}"), 422, "invalid_request")


@pytest.mark.parametrize(
    "sent", ["", "1", "EVT-26-1", "EVT-26-000001,EVT-26-000002", "evt-26-000001", "AUD-26-000001"]
)
def test_a_malformed_last_event_id_is_a_422(edge: Edge, sent: str) -> None:
    answer = edge.get(STREAM, headers={"last-event-id": sent})
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/Last-Event-ID"


def test_two_last_event_ids_are_a_422(edge: Edge) -> None:
    headers = [("last-event-id", "EVT-26-000001"), ("last-event-id", "EVT-26-000002")]
    assert_problem(edge.get(STREAM, headers=headers), 422, "invalid_request")


def test_only_the_streams_of_a_revoked_key_end(edge: Edge, address: Address, token: str) -> None:
    doomed = edge.token("read")
    key_id = edge.run(edge.service.app.state.services.authenticator.authenticate(doomed, None)).id
    line = edge.fresh()
    with (
        Listener(address, doomed, timeout=5) as first,
        Listener(address, doomed, "service_line_id=nobody", timeout=5) as second,
        Listener(address, token) as other,
    ):
        edge.service.app.state.services.writer.execute(RevokeApiKey(key_id, COMMAND_LINE))
        # Both streams end cleanly, within the 5 s of their socket time-outs.
        assert first.message() is None
        assert second.message() is None
        edge.accept(check_in(line))
        assert other.take(1)[0]["subject"]["id"] == line
    with Listener(address, doomed) as again:
        assert again.answer.status == 401


# Many streams, and slow readers.


def test_only_the_streams_beyond_the_limit_of_an_organization_are_refused(
    edge: Edge, address: Address, token: str
) -> None:
    streams = edge.service.app.state.services.of(Streams)
    until(lambda: len(streams) == 0, "the end of earlier streams")
    line = edge.fresh()
    listeners = [Listener(address, token).opened() for _ in range(300)]
    with Listener(address, token) as one_more:
        assert one_more.answer.status == 503
        assert one_more.answer.headers["retry-after"]
    with Listener(address, edge.token("read", **OTHERS)) as others:
        others.opened()
    until(lambda: len(streams) == 300, "the end of the other organization's stream")
    metrics = edge.get("/metrics").text
    assert "ledger_feed_streams 300.0" in metrics
    end = last_id(edge.accept(*(check_in(line) for _ in range(7))))
    for listener in listeners:
        assert [event["id"] for event in listener.take(7)][-1] == end
        listener.close()
    until(lambda: len(streams) == 0, "the end of all streams")
    with Listener(address, token) as listener:
        listener.opened()


def test_a_slow_reader_is_cut_and_can_resume(edge: Edge, address: Address, token: str) -> None:
    streams = edge.service.app.state.services.of(Streams)
    until(lambda: len(streams) == 0, "the end of earlier streams")
    line = edge.fresh()
    start = last_id(edge.accept(check_in(line)))
    slow = Listener(address, token, f"after={start}", receive_buffer=4096)
    # More bytes than the kernel and the server buffer for this reader.
    for _ in range(8):
        edge.accept(*(check_in(line, note="x" * 50_000) for _ in range(20)))
    until(lambda: len(streams) == 0, "the cut")
    with slow:
        found = slow.rest()
    expected = feed_of(edge, token, after=start)
    assert 0 < len(found) < len(expected)
    with Listener(address, token, last_event_id=found[-1]["id"]) as listener:
        found += listener.take(len(expected) - len(found))
    assert found == expected
