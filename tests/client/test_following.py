"""The feed is followed from a stored position: pages, then the stream."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import AsyncLedger, FileCursor, Ledger, SqliteCursor, Unauthorized, types
from execution_ledger._async import follow as async_follow
from execution_ledger._sync import follow

from tests.client.support import Reply, Request, Service, StandIn, problem


class MemoryStore:
    """A store in memory."""

    def __init__(self, cursor: str | None = None) -> None:
        self.saved = [] if cursor is None else [cursor]

    def load(self) -> str | None:
        return self.saved[-1] if self.saved else None

    def save(self, cursor: str) -> None:
        self.saved.append(cursor)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once."""
    for module in (follow, async_follow):
        monkeypatch.setattr(module, "RETURN_SECONDS", 0.01)


@pytest.fixture
def line(service: Service) -> str:
    """A line with five check-ins."""
    line = service.edge.fresh()
    check_in(service, line, *range(5))
    return line


def check_in(service: Service, line: str, *numbers: int) -> None:
    """Report numbered check-ins, each at once."""
    for number in numbers:
        fact = {"specversion": "1.0", "id": f"{line}-{number}", "source": "/follow"}
        fact |= {"type": "execution.checked_in", "subject": line, "data": {"note": str(number)}}
        service.edge.accept(fact)


def next_numbers(followed: Any, count: int) -> Iterator[int]:
    events = iter(followed)
    for _ in range(count):
        event = next(events)
        assert isinstance(event, types.ExecutionCheckedInEvent)
        yield int(str(event.payload.note))
    events.close()


def of(line: str) -> dict[str, Any]:
    return {"service_line_id": line, "type": "execution.checked_in"}


def test_events_come_from_the_pages_and_then_from_the_stream(
    ledger: Ledger, service: Service, line: str
) -> None:
    followed = ledger.events.follow(MemoryStore(), **of(line))
    positions: list[int] = []
    followed.on_complete(lambda position: check_in(service, line, 5, 6))
    followed.on_complete(positions.append)
    assert list(next_numbers(followed, 7)) == list(range(7))
    assert len(positions) == 1
    assert followed.complete_to is not None
    assert followed.complete_to > positions[0]


def test_a_follower_goes_on_after_the_stored_position(
    ledger: Ledger, service: Service, line: str, tmp_path: Path
) -> None:
    store = FileCursor(tmp_path / "cursor")
    assert list(next_numbers(ledger.events.follow(store, **of(line)), 3)) == [0, 1, 2]
    # The last event was not followed by another question, so its handler may have been interrupted.
    assert list(next_numbers(ledger.events.follow(store, **of(line)), 2)) == [2, 3]
    assert len(list(ledger.events.follow(store, **of(line)).up_to_now())) == 2
    assert list(ledger.events.follow(store, **of(line)).up_to_now()) == []
    check_in(service, line, 5)
    assert len(list(ledger.events.follow(store, **of(line)).up_to_now())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_a_follower_begins_after_an_event_where_nothing_is_stored(
    ledger: Ledger, line: str
) -> None:
    third = list(ledger.events.list(**of(line)))[2]
    followed = ledger.events.follow(MemoryStore(), **of(line), after=third.id)
    assert list(next_numbers(followed, 2)) == [3, 4]


def test_an_event_and_its_position_are_one_transaction(
    ledger: Ledger, line: str, tmp_path: Path
) -> None:
    def handled(fails_at: int) -> None:
        store = SqliteCursor(tmp_path / "copy.db")
        store.connection.execute("CREATE TABLE IF NOT EXISTS taken (note TEXT)")
        try:
            for event in ledger.events.follow(store, **of(line)).up_to_now():
                assert isinstance(event, types.ExecutionCheckedInEvent)
                store.connection.execute("INSERT INTO taken VALUES (?)", (event.payload.note,))
                if event.payload.note == str(fails_at):
                    raise LookupError
        finally:
            store.close()

    for fails_at in (1, 3):
        with pytest.raises(LookupError):
            handled(fails_at)
    handled(9)
    with sqlite3.connect(tmp_path / "copy.db") as database:
        notes = [note for (note,) in database.execute("SELECT note FROM taken")]
    database.close()
    assert notes == [str(number) for number in range(5)]


def test_followers_of_one_database_have_positions_of_their_own(tmp_path: Path) -> None:
    one, other = (SqliteCursor(tmp_path / "db", name) for name in ("one", "other"))
    one.save("EVT-26-000001")
    assert (one.load(), other.load()) == ("EVT-26-000001", None)
    one.close()
    other.close()


def test_a_loop_follows_too(options: dict[str, Any], service: Service, line: str) -> None:
    async def work() -> list[int]:
        positions: list[int] = []
        async with AsyncLedger(**options) as ledger:
            followed = ledger.events.follow(MemoryStore(), **of(line))
            followed.on_complete(lambda _: check_in(service, line, 5))
            async for event in followed:
                assert isinstance(event, types.ExecutionCheckedInEvent)
                positions.append(int(str(event.payload.note)))
                if len(positions) == 6:
                    return positions
        return positions

    assert asyncio.run(work()) == list(range(6))


# A service that fails


ENVELOPE = {
    "occurred_at": "2026-04-15T09:00:00Z", "recorded_at": "2026-04-15T09:00:00Z",
    "actor": {"type": "user", "id": "alice"}, "reported_by": "KEY-26-000001", "fact": None,
    "subject": {"type": "service_line", "id": "LIN-26-000042"}, "causation_id": None,
    "service_line_id": "LIN-26-000042", "organization_id": "ORG-26-000001", "workspace_id": None,
}  # fmt: skip


def event(number: int) -> dict[str, Any]:
    payload = {"state_before": "idle", "state_after": "running"}
    named = {"id": f"EVT-26-{number:06}", "position": number, "type": "execution.active"}
    return ENVELOPE | named | {"payload": payload}


def page(*numbers: int, has_more: bool = False) -> Reply:
    meta = {"cursor": "c" if numbers else None, "has_more": has_more}
    body = {"data": [event(number) for number in numbers], "meta": meta}
    return Reply(200, body, {"ledger-position": str(max(numbers, default=9))})


def test_a_service_that_is_away_is_waited_for() -> None:
    replies = [
        Reply(0), problem(503, "unavailable"), page(1, 2, has_more=True), problem(500, "internal"),
        page(3), Reply(0), problem(429, "rate_limited"), page(4),
    ]  # fmt: skip

    def answer(request: Request) -> Reply:
        return replies.pop(0) if replies else problem(401, "unauthorized")

    store, positions = MemoryStore(), list[int]()

    def follow_for_ever(ledger: Ledger) -> None:
        for each in ledger.events.follow(store):
            positions.append(each.position)

    with (
        StandIn(answer).serving() as stand_in,
        Ledger(stand_in.address, "elk_test", timeout=0.2) as ledger,
        pytest.raises(Unauthorized),
    ):
        follow_for_ever(ledger)
    assert positions == [1, 2, 3, 4]
    assert store.saved == [f"EVT-26-{number:06}" for number in positions]
    requests = [(each.path, each.headers.get("last-event-id")) for each in stand_in.requests]
    assert requests[5] == ("/v1/events/stream", "EVT-00-000003")
    assert requests[-1] == ("/v1/events/stream", "EVT-00-000004")
