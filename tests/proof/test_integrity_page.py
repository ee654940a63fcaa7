"""The page of the log's integrity: the last checkpoint and the last verification, in words."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.app.settings import Settings
from ledger.features.proof.page import integrity
from ledger.features.proof.tables import NEW, OLD, SCHEMA, TABLES, Finding, keep
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.sealing import seal
from tests.support.visitor import Visitor, visitor

AT = datetime(2026, 4, 15, 3, 0, 7, tzinfo=UTC)
ROW = {"table": "api_key", "key": "key_id=KEY-26-000009", "column": "revoked_at"}


@pytest.fixture
def alone(settings: Settings, conninfo: str) -> Iterator[Edge]:
    """A service of the test's own, with a fresh log."""
    with edge_of(settings, conninfo) as edge:
        yield edge


def found(
    edge: Edge, part: str, differences: int = 0, *named: dict[str, Any], compared: int = 1234
) -> None:
    """Keep what a verification found."""
    with psycopg.connect(edge.conninfo) as connection:
        keep(connection, Finding(part, AT, AT, 1, 9, compared, differences, named))


def forget(edge: Edge) -> None:
    execute(edge, b"DELETE FROM ledger.verification")


def execute(edge: Edge, statement: bytes) -> None:
    with psycopg.connect(edge.conninfo) as connection:
        connection.execute(statement)


def test_the_last_checkpoint_and_the_key_are_those_of_the_api(alone: Edge, tmp_path: Path) -> None:
    alone.fresh()
    seal(alone.conninfo, tmp_path)
    page = visitor(alone, "read").get("/ui/integrity")
    note, key = alone.get("/v1/log/checkpoint").text, alone.get("/v1/log/key").text
    origin, size, root = note.split("\n")[:3]
    facts = dict(zip(page.words(".proof dt"), page.words(".proof dd"), strict=True))
    assert facts["Size"] == f"{size} events"
    assert facts["Last event"].startswith("recorded 2026-04-15 12:00:00")
    assert (facts["Origin"], facts["Root"]) == (origin, root)
    assert [pre.get_text() for pre in page.all(".proof pre")] == [note, key.strip()]
    assert facts["Not sealed yet"] == "2 events", "the visitor's key and session"
    copied = [str(button["data-copy"]) for button in page.all("[data-copy]")]
    assert copied == [note, key.strip()]


def test_the_lag_of_sealing_is_reported_up_to_a_bound(
    alone: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = visitor(alone, "read")
    line = alone.fresh("capacity")
    seal(alone.conninfo, tmp_path)

    def lag() -> str:
        page = guest.get("/ui/integrity")
        return dict(zip(page.words(".proof dt"), page.words(".proof dd"), strict=True))[
            "Not sealed yet"
        ]

    assert lag() == "no event"
    alone.accept(*(fact("execution.checked_in", line) for _ in range(4)))
    assert lag() == "4 events"
    monkeypatch.setattr(integrity, "MOST_UNSEALED", 3)
    assert lag() == "more than 3 events"


def test_a_log_that_nobody_sealed_or_verified_says_so(alone: Edge) -> None:
    forget(alone)
    page = visitor(alone, "read").get("/ui/integrity")
    assert page.status == 200
    assert "Nothing is sealed yet." in page.text
    text = "Not verified yet. The first check runs at 2026-04-16 03:00:00 UTC."
    assert text in page.words("#h-verified + p")[0]
    assert page.words(".well") == []
    # Each of seven nights verifies one of seven parts of the older events, and all other things.
    due = page.words(".verified tbody td:nth-of-type(1)")
    assert due[:3] == ["not yet, due 2026-04-16 03:00:00"] * 3
    days = [f"not yet, due 2026-04-{day} 03:00:00" for day in range(16, 23)]
    assert sorted(due[3:]) == days
    assert set(page.words(".verified tbody td:nth-of-type(2)")) == {"—"}


def test_nothing_is_reported_as_equal_before_every_part_was_compared(alone: Edge) -> None:
    """A part without rows was compared with nothing: a tick would say more than is known."""
    forget(alone)
    for part in (TABLES, NEW, SCHEMA, *OLD[1:]):
        found(alone, part, compared=0 if part == OLD[1] else 1234)
    guest = visitor(alone, "read")
    page = guest.get("/ui/integrity")
    assert "No differences" not in page.text
    assert "1 of 10 parts is not verified yet." in page.words("main")[0]
    rows = [row.split(" 2026-", 1) for row in page.words(".verified tbody tr")]
    assert [row[0] for row in rows][:3] == [
        "New events, their leaves and checkpoints",
        "Tables on which decisions rest",
        "Functions, views, constraints and rights of the database",
    ]
    assert rows[0][1] == "04-15 03:00:07 1,234 nothing"
    assert rows[4] == ["Older events, part 2 of 7", "04-15 03:00:07 — nothing to compare"]
    found(alone, OLD[0])
    page = guest.get("/ui/integrity")
    text = "No differences between what is stored and the log, in the parts below."
    assert text in page.words("main")[0]
    assert "not compared" not in page.text
    assert "Verified 2026-04-15 03:00:07 UTC." in page.words("main")[0]


def test_differences_are_counted_for_everybody_and_named_to_administrators(alone: Edge) -> None:
    found(alone, NEW)
    found(alone, TABLES, 2, ROW, ROW | {"column": None})
    admin = Visitor(alone, alone.token("admin", organization_id=None))
    for guest in (visitor(alone, "audit:read"), visitor(alone, "write"), admin):
        page = guest.get("/ui/integrity")
        assert page.status == 200
        assert page.words(".verified .r-failed") == ["2 differences"]
        assert "data was changed without the ledger, or is damaged" in page.words("main")[0]
        assert ("KEY-26-000009" in page.text) is (guest is admin)
    assert page.words(".verified li") == [
        "api_key key_id=KEY-26-000009 revoked_at",
        "api_key key_id=KEY-26-000009",
    ]


def test_stopped_sealing_is_shown_to_everybody_and_its_reason_to_administrators(
    alone: Edge, tmp_path: Path
) -> None:
    alone.fresh()
    assert seal(alone.conninfo, tmp_path) > 0
    execute(
        alone,
        b"UPDATE ledger.signer SET stopped_at = '2026-04-15T11:00:00Z', error = 'LIN-26-7 is gone'",
    )
    page = visitor(alone, "read").get("/ui/integrity")
    assert page.words('[role="alert"] h2') == ["Sealing has stopped"]
    assert "Since 2026-04-15 11:00:00" in page.words('[role="alert"]')[0]
    assert "LIN-26-7" not in page.text
    admin = Visitor(alone, alone.token("admin", organization_id=None))
    assert admin.get("/ui/integrity").words('[role="alert"] code') == ["LIN-26-7 is gone"]
