"""The feed as a file: the events of the list, from any event on (contract, Feeds)."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.features.feed.published import TYPES
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.feeds import (
    AWKWARD,
    BEHIND,
    FORMULAS,
    OTHER,
    SIBLING,
    cell_of,
    pages_of,
    readers,
    rows_of,
)
from tests.support.random_life import Life
from tests.support.soak import repeated

EXPORT, LIST = "/v1/events/export", "/v1/events"
COLUMNS = [
    "id", "type", "occurred_at", "recorded_at", "position", "actor_type", "actor_id",
    "reported_by", "subject_type", "subject_id", "service_line_id", "organization_id",
    "workspace_id", "causation_id", "fact_source", "fact_id", "trace_id", "payload",
]  # fmt: skip

Event = dict[str, Any]
Filters = dict[str, str]


class World(NamedTuple):
    """Lines of two organizations, whose log no test changes, and the tokens of its readers."""

    edge: Edge
    tokens: dict[str, str]
    lines: list[str]
    events: list[Event]
    """The whole feed."""
    end: int
    """The end of the log, which also has entries that no feed has."""


@pytest.fixture(scope="module")
def world(edge: Edge) -> World:
    tokens = readers(edge)
    lives = [
        Life(edge, seed, tokens["admin"], organization_id=organization, workspace_id=workspace)
        for seed, (organization, workspace) in enumerate(
            [(ORGANIZATION, WORKSPACE), (ORGANIZATION, SIBLING), (OTHER, WORKSPACE)]
        )
    ]
    for life in lives * 3:
        life.live(4)
    lives[0].close()
    for number, word in enumerate([*FORMULAS, *AWKWARD, *BEHIND]):
        named = {"actortype": "user", "actorid": word, "source": f"={number}"}
        note = {"hours": 1, "note": word}
        edge.accept(fact("execution.checked_in", lives[1].line, note, **named))
    pages, events = pages_of(edge, LIST, tokens["admin"], {})
    assert len(events) > 100
    assert len(pages) > 1
    ((end,),) = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
    return World(edge, tokens, [life.line for life in lives], events, end)


def exported(edge: Edge, token: str, **params: Any) -> bytes:
    answer = edge.get(EXPORT, token, params=params)
    assert answer.status_code == 200, answer.text
    return answer.content


def cells_of(event: Event) -> list[str]:
    """The row of an event, told by its envelope."""
    reported = event["fact"] or {}
    values = [
        event["id"], event["type"], event["occurred_at"], event["recorded_at"], event["position"],
        event["actor"]["type"], event["actor"]["id"], event["reported_by"],
        event["subject"]["type"], event["subject"]["id"], event["service_line_id"],
        event["organization_id"], event["workspace_id"], event["causation_id"],
        reported.get("source"), reported.get("id"), event["trace_id"],
    ]  # fmt: skip
    words = ["" if value is None else str(value) for value in values]
    return [cell_of(word) for word in words]


@pytest.mark.parametrize("examples", repeated([15, 80]))
def test_the_export_is_the_feeds_pages_one_behind_the_other_for_any_filters(
    world: World, examples: int
) -> None:
    """As JSON lines byte for byte, and as a table."""
    instants = [event["recorded_at"] for event in world.events[::17]]
    some = {
        "organization_id": st.sampled_from([ORGANIZATION, OTHER, "ORG-26-000003"]),
        "workspace_id": st.sampled_from([WORKSPACE, SIBLING]),
        "service_line_id": st.sampled_from([*world.lines, "LIN-26-999999"]),
        "type": st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=6).map(",".join),
        "from": st.sampled_from(instants[: len(instants) // 2]),
        "to": st.sampled_from(instants[len(instants) // 2 :]),
        "after": st.integers(0, world.end + 3).map(lambda n: f"EVT-26-{n:06d}"),
    }
    compared: list[int] = []

    @given(
        reader=st.sampled_from(sorted(world.tokens)),
        filters=st.fixed_dictionaries({}, optional=some),
    )
    @settings(max_examples=examples, deadline=None)
    def check(reader: str, filters: Filters) -> None:
        token = world.tokens[reader]
        pages, events = pages_of(world.edge, LIST, token, filters)
        lines = exported(world.edge, token, **filters).decode()
        assert lines.replace("\n", ",") == "".join(f"{page}," for page in pages if page)
        table = rows_of(exported(world.edge, token, format="csv", **filters))
        # A continued table has no heading.
        assert table[:1] == [COLUMNS] or "after" in filters
        rows = table if "after" in filters else table[1:]
        assert [row[:-1] for row in rows] == [cells_of(event) for event in events]
        assert [json.loads(row[-1]) for row in rows] == [event["payload"] for event in events]
        compared.append(len(events))

    check()
    assert sum(compared) > examples * 25 // 4


@pytest.mark.parametrize("format_", repeated(["csv", "jsonl"]))
def test_an_export_after_any_position_is_the_rest_of_the_whole_export(
    world: World, format_: str
) -> None:
    """Also after a position whose event is in no feed, and after the end."""
    token, params = world.tokens["own"], {"format": format_}
    whole = exported(world.edge, token, **params)
    own = {e["position"]: e["id"] for e in world.events if e["organization_id"] == ORGANIZATION}
    assert 50 < len(own) < world.end
    offset = whole.index(b"\r\n") + 2 if format_ == "csv" else 0
    for position in range(world.end + 2):
        rest = exported(world.edge, token, after=f"EVT-26-{position:06d}", **params)
        passed = whole[offset : len(whole) - len(rest)]
        assert whole[len(whole) - len(rest) :] == rest
        # The event at the position, and no other, is no longer in the rest.
        if position in own:
            assert passed.startswith(b'{"id":"' * (format_ == "jsonl") + own[position].encode())
            assert passed.endswith(b"\n")
        else:
            assert passed == b""
        offset += len(passed)
    assert offset == len(whole)


def test_no_cell_of_the_table_is_a_formula(world: World) -> None:
    table = rows_of(exported(world.edge, world.tokens["admin"], format="csv"))
    assert not [cell for row in table for cell in row if cell and cell[0] in "=+-@＝＋－＠\t\r"]
    actors, sources = (
        {row[COLUMNS.index(name)] for row in table} for name in ("actor_id", "fact_source")
    )
    assert set(map(cell_of, [*FORMULAS, *AWKWARD, *BEHIND])) <= actors
    assert "'=3" in sources
    notes = [json.loads(row[-1]).get("note") for row in table[1:]]
    assert {*FORMULAS, *AWKWARD, *BEHIND} <= set(notes)


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_the_answer_says_its_format_its_name_and_its_position(world: World, format_: str) -> None:
    answer = world.edge.get(f"{EXPORT}?format={format_}")
    types = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
    assert answer.headers["content-type"] == types[format_]
    assert answer.headers["content-disposition"] == f'attachment; filename="events.{format_}"'
    end = world.edge.get(LIST).headers["ledger-position"]
    assert answer.headers["ledger-position"] == end >= str(world.end)


@pytest.mark.parametrize(
    "params",
    [
        "format=xml", "limit=5", "cursor=eyJwb3NpdGlvbiI6MX0", "as_of=2026-04-15",
        "after=AUD-26-000001", "after=", "type=no.such", "from=2026-02-01&to=2026-01-01",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(edge: Edge, params: str) -> None:
    assert_problem(edge.get(f"{EXPORT}?{params}"), 422, "invalid_request")
