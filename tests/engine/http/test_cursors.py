"""A walk by cursor gives every row once, whatever is written meanwhile (contract, Reading)."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import activation, fact


@pytest.fixture(scope="module")
def lines(edge: Edge) -> list[str]:
    """60 lines under one tag, newest first."""
    ids = [edge.fresh_id() for _ in range(60)]
    edge.accept(*(activation(line, project_tags=["walk"]) for line in ids))
    return ids[::-1]


@pytest.fixture(scope="module")
def busy(edge: Edge) -> tuple[str, list[str]]:
    """A line with 60 runs, two at each instant, and the ids of the runs, newest first."""
    line = edge.fresh()
    events = []
    for number in range(60):
        at = f"2026-04-15T11:{number // 2:02d}:00.5Z"
        run = f"RUN-26-9{number:05d}"
        events.append(fact("run.requested", run, {"service_line_id": line}, time=at))
    edge.accept(*events)
    return line, [event["subject"] for event in reversed(events)]


def paged(
    edge: Edge, path: str, limit: int, meanwhile: Callable[[int], Any] = lambda page: None
) -> list[dict[str, Any]]:
    """The rows of a whole list, page by page; ``meanwhile`` runs after each page."""
    rows: list[dict[str, Any]] = []
    cursor, page = None, 0
    while True:
        params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        document = edge.get(path, params=dict(_query(path)) | params).json()
        rows += document["data"]
        assert len(document["data"]) <= limit
        cursor, page = document["meta"]["cursor"], page + 1
        assert (cursor is None) == (document["data"] == [])
        if not document["meta"]["has_more"]:
            return rows
        assert len(document["data"]) == limit
        meanwhile(page)


def _query(path: str) -> list[tuple[str, str]]:
    return [tuple(pair.split("=")) for pair in path.partition("?")[2].split("&") if pair]  # type: ignore[misc]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 59, 60, 61])
def test_pages_list_each_line_exactly_once(edge: Edge, lines: list[str], limit: int) -> None:
    rows = paged(edge, "/v1/execution?project_tag=walk", limit)
    assert [row["service_line_id"] for row in rows] == lines


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 60])
def test_pages_list_each_run_exactly_once(
    edge: Edge, busy: tuple[str, list[str]], limit: int
) -> None:
    line, runs = busy
    rows = paged(edge, f"/v1/execution/{line}/runs", limit)
    assert [row["id"] for row in rows] == runs


def test_lines_that_change_or_are_activated_meanwhile_disturb_no_paging(edge: Edge) -> None:
    ids = [edge.fresh_id() for _ in range(60)]
    edge.accept(*(activation(line, project_tags=["storm"]) for line in ids))

    def storm(page: int) -> None:
        edge.accept(activation(edge.fresh_id(), project_tags=["storm"]))
        for line in (ids[page], ids[-page], ids[30]):
            edge.send(fact("service_line.paused" if page % 2 else "service_line.resumed", line))

    rows = paged(edge, "/v1/execution?project_tag=storm", 7, storm)
    assert [row["service_line_id"] for row in rows] == ids[::-1]


def test_a_line_that_matches_in_all_filtered_pages_appears_once(edge: Edge) -> None:
    ids = [edge.fresh_id() for _ in range(60)]
    edge.accept(*(activation(line, project_tags=["filtered"]) for line in ids))

    def leave(page: int) -> None:
        edge.accept(fact("service_line.paused", ids[page]))

    rows = paged(edge, "/v1/execution?project_tag=filtered&state=running", 4, leave)
    found = [row["service_line_id"] for row in rows]
    assert len(found) == len(set(found))
    assert set(ids[16:]) <= set(found)


def test_runs_that_begin_or_end_meanwhile_disturb_no_paging(edge: Edge) -> None:
    line = edge.fresh()
    events = [fact("run.started", None, {"service_line_id": line}) for _ in range(30)]
    ids = [item["subject"] for item in edge.accept(*events)]

    def storm(page: int) -> None:
        edge.accept(fact("run.completed", ids[-page]), fact("run.failed", ids[page]))
        edge.accept(fact("run.started", None, {"service_line_id": line}))

    rows = paged(edge, f"/v1/execution/{line}/runs", 4, storm)
    assert [row["id"] for row in rows] == ids[::-1]


def test_the_last_page_has_a_cursor_and_an_empty_page_has_none(
    edge: Edge, lines: list[str]
) -> None:
    path = "/v1/execution?project_tag=walk"
    last = edge.get(path, params={"project_tag": "walk", "limit": 60}).json()["meta"]
    assert last["has_more"] is False
    assert last["cursor"] is not None
    after = edge.get(f"{path}&cursor={last['cursor']}").json()
    assert after == {"data": [], "meta": {"cursor": None, "has_more": False}}
    # A line that is activated later stands at the front of the list, not behind the cursor.
    edge.accept(activation(edge.fresh_id(), project_tags=["later"]))
    assert edge.get(f"{path}&cursor={last['cursor']}").json() == after


def test_a_cursor_may_be_used_twice_and_with_another_limit(edge: Edge, lines: list[str]) -> None:
    first = edge.get("/v1/execution?project_tag=walk&limit=5").json()["meta"]["cursor"]
    for limit in (1, 10, 10):
        rows = edge.data(f"/v1/execution?project_tag=walk&limit={limit}&cursor={first}")
        assert [row["service_line_id"] for row in rows] == lines[5 : 5 + limit]


def test_a_cursor_serves_its_filter_whatever_the_order_of_the_words(
    edge: Edge, lines: list[str]
) -> None:
    """The second round also gets answers that were kept for another order of the words."""
    ways = ("running,idle", "idle,running", "running,idle,running")
    path = "/v1/execution?project_tag=walk&limit=1&state={}".format
    for _ in range(2):
        cursors = [edge.get(path(way)).json()["meta"]["cursor"] for way in ways]
        for cursor in cursors:
            for way in ways:
                (row,) = edge.data(f"{path(way)}&cursor={cursor}")
                assert row["service_line_id"] == lines[1]


def encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


NESTED = base64.urlsafe_b64encode(b'{"f":' + b"[" * 30_000).rstrip(b"=").decode()


def test_a_cursor_is_unpadded_base64url_of_json(edge: Edge, lines: list[str]) -> None:
    cursor = edge.get("/v1/execution?project_tag=walk&limit=1").json()["meta"]["cursor"]
    assert "=" not in cursor
    assert json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))["id"]


def assert_invalid(edge: Edge, path: str, cursor: str) -> None:
    answer = edge.get(path, params=dict(_query(path)) | {"cursor": cursor})
    assert_problem(answer, 400, "invalid_cursor")


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "garbage!", "====", "null", "é", "a b", "AAAA", encoded(None), encoded([]),
        NESTED, encoded({}), encoded("RUN-26-000001"), encoded({"id": "RUN-26-000001"}),
        encoded({"id": "RUN-26-000001", "f": ""}), encoded({"f": "44136fa355b3"}),
        encoded({"id": "x", "f": "44136fa355b3"}), encoded({"id": None, "f": "44136fa355b3"}),
        encoded({"id": {"a": 1}, "at": 5, "f": "44136fa355b3"}), "W" * 490,
        base64.urlsafe_b64encode(b"[" * 300).decode(), "eyJpZCI6IlJVTi0yNi0wMDA0MTkifQ",
    ],
)  # fmt: skip
def test_a_garbage_cursor_is_refused(edge: Edge, lines: list[str], cursor: str) -> None:
    line = edge.fresh()
    for path in ("/v1/execution", f"/v1/execution/{line}/runs"):
        assert_invalid(edge, path, cursor)


def test_a_cursor_with_other_characters_between_its_letters_is_refused(
    edge: Edge, lines: list[str]
) -> None:
    path = "/v1/execution?project_tag=walk&limit=1"
    cursor = edge.get(path).json()["meta"]["cursor"]
    assert edge.get(f"{path}&cursor={cursor}").status_code == 200
    for noise in "!", "!!!!", "\n\n\n\n":  # four characters leave the padding as it is
        assert_invalid(edge, path, cursor[:8] + noise + cursor[8:])


def forged(edge: Edge, line: str, **change: Any) -> str:
    """A genuine cursor of the line's runs with changed fields inside."""
    edge.accept(fact("run.requested", None, {"service_line_id": line}))
    cursor = edge.get(f"/v1/execution/{line}/runs?limit=1").json()["meta"]["cursor"]
    document = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return encoded(document | change)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "RUN-26"}, {"id": ["RUN"]}, {"at": "yesterday"}, {"at": None}, {"id": "RUN-x-1"},
        {"at": "0001-01-01T00:00:00+01:00"}, {"id": "RUN-" + "9" * 120 + "-1"},
    ],
    ids=str,
)  # fmt: skip
def test_a_cursor_with_a_forged_key_is_refused(edge: Edge, change: dict[str, Any]) -> None:
    line = edge.fresh()
    assert_invalid(edge, f"/v1/execution/{line}/runs", forged(edge, line, **change))
