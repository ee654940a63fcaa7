"""A page of the feed, the audit log or a history costs in proportion to the page, not the log."""

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest

from ledger.app.features import projections
from ledger.engine.http.replies import DisclosedLine
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.errors import NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.views.statements import Read
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.feed.audited import FACT_EVENT_TYPES, actions_of
from ledger.features.lines.commands.lines import Pause
from ledger.features.runs.read_notes import NoteRead
from projections.feed import feeds, statements
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.plans import Cost, cost, database_after
from tests.support.racing_writers import parsed

OTHER = "ORG-26-000002"
WORKSPACES = ["WS-26-000001", "WS-26-000002"]
LINES = [f"LIN-26-{number:06d}" for number in range(1, 101)]
LIMIT = 26
EVENTS = 20_000
ADMIN = Principal("KEY-26-000001", "api_key", frozenset({"admin"}))


class Past(NamedTuple):
    """A database with many events."""

    connection: psycopg.Connection[Any]
    late: datetime
    """The instant by which nine tenths of the events were recorded."""
    end: int


@pytest.fixture(scope="module")
def past(server: EmbeddedPostgres) -> Iterator[Past]:
    """Events of two organizations; some lines, workspaces, types and commands are rare."""
    with database_after(server, "feed_plans", work) as (connection, _):
        late = f"""SELECT ledger.recorded_at(position) FROM ledger.event
            ORDER BY position OFFSET {EVENTS * 9 // 10} LIMIT 1"""
        ((at,),) = connection.execute(late.encode()).fetchall()
        ((end,),) = connection.execute("SELECT max(position) FROM ledger.event").fetchall()
        yield Past(connection, at, end)


def work(writer: Writer) -> None:
    dice = random.Random(3)
    begun = []
    for number, line in enumerate(LINES):
        tenant, workspace = (ORGANIZATION, OTHER)[number % 2], WORKSPACES[number == 50]
        begun.append(activation(line, organization_id=tenant, workspace_id=workspace))
    send(writer, *begun)
    usual = [line for line in LINES if line not in (LINES[50], LINES[98])]
    for part in range(20):
        facts = [fact("execution.checked_in", dice.choice(usual)) for _ in range(990)]
        if part == 12:
            facts += [fact("execution.blocked", line, BLOCKER) for line in LINES[2:8]]
        if part % 4 == 1:
            facts.append(fact("execution.checked_in", LINES[50]))
            facts.append(fact("service_line.resumed", LINES[61 + part]))
            facts.append(fact("service_line.resumed", LINES[2]))
            facts.append(fact("execution.checked_in", LINES[2], actortype="user", actorid=VISITOR))
        send(writer, *facts)
        if part % 5 == 2:
            command = Pause(LINES[part], ADMIN, reason="r")
            assert isinstance(writer.execute(command), Receipt)
            assert isinstance(writer.execute(Pause(UNKNOWN, ADMIN, reason="r")), NotFound)
            disclosed = DisclosedLine(LINES[2], ORGANIZATION, WORKSPACES[0])
            read = NoteRead(ADMIN, None, disclosed, FIRST_DAY + timedelta(days=part))
            assert isinstance(writer.execute(read), Receipt)


VISITOR = "USR-26-000007"
UNKNOWN = "LIN-26-999990"
FIRST_DAY = datetime(2026, 4, 1, tzinfo=UTC)
BLOCKER = {"blocker_id": "b", "cause": "capacity_issue"}


def send(writer: Writer, *events: dict[str, Any]) -> None:
    commands = [command_of(parsed(event), ADMIN) for event in events]
    assert len(writer.submit(commands).result(30)) == len(events)


def page_of(past: Past, read: Read, /, **values: Any) -> Cost:
    values = {"after": 0, "before": 2**63 - 1, "limit": LIMIT} | values
    return cost(past.connection, read, values)


ORG = {"organization": ORGANIZATION}
NARROW = ORG | {"workspace": WORKSPACES[0]}
RARE = ORG | {"workspace": WORKSPACES[1]}

FEEDS: dict[str, dict[str, Any]] = {
    "everything": {},
    "organization": ORG,
    "administrator, an organization": {"organization_id": ORGANIZATION},
    "own organization, named": ORG | {"organization_id": ORGANIZATION},
    "narrow": NARROW,
    "rare workspace, narrow": RARE,
    "rare workspace": ORG | {"workspace_id": WORKSPACES[1]},
    "line": ORG | {"service_line_id": LINES[4]},
    "rare line": ORG | {"service_line_id": LINES[98]},
    "narrow, line": NARROW | {"service_line_id": LINES[4]},
    "unknown line": ORG | {"service_line_id": "LIN-26-999999"},
    "type": ORG | {"type": ["execution.checked_in"]},
    "rare type": ORG | {"type": ["execution.blocked"]},
    "missing type": ORG | {"type": ["run.failed"]},
    "rare types": ORG | {"type": ["execution.blocked", "run.failed", "execution.paused"]},
    "administrator, rare type": {"organization_id": ORGANIZATION, "type": ["execution.blocked"]},
    "another organization": ORG | {"organization_id": OTHER},
    "unknown organization": {"organization_id": "ORG-26-000009"},
    "another's line": ORG | {"service_line_id": LINES[5]},
    "narrow, another workspace": RARE | {"workspace_id": WORKSPACES[0]},
    "narrow, rare type": NARROW | {"type": ["execution.blocked"]},
    "rare workspace, type": RARE | {"type": ["execution.checked_in"]},
    "line, rare type": ORG | {"service_line_id": LINES[4], "type": ["execution.blocked"]},
}


AUDIT = ORG | {"organization_id": ORGANIZATION}
REFUSED = {"refused": "refused", "no_fact": True}
READ = {"read": "read", "no_fact": True}
NOBODY = {"no_organization": True, "no_fact": True}
COMMANDS = {"action": ["execution.pause", "key.create"], "no_fact": True}

BLOCKED = {"action": ["execution.blocked", "key.create"]}
RESUMED = {"action": ["service_line.resumed"]}
RARE_TYPES = ("execution.paused", "execution.resumed", "execution.blocked", "execution.closed",
              "execution.updated", "run.erased")  # fmt: skip

AUDITS: dict[str, dict[str, Any]] = {
    "organization": AUDIT,
    "administrator": {"organization_id": ORGANIZATION},
    "workspace": AUDIT | {"workspace_id": WORKSPACES[0]},
    "rare workspace": AUDIT | {"workspace_id": WORKSPACES[1]},
    "narrow": AUDIT | NARROW,
    "refused": AUDIT | REFUSED,
    "refused, administrator": {"organization_id": ORGANIZATION} | REFUSED,
    "refused, narrow": AUDIT | NARROW | REFUSED,
    "refused, workspace": AUDIT | REFUSED | {"workspace_id": WORKSPACES[0]},
    "reads": AUDIT | READ,
    "reads, narrow": AUDIT | NARROW | READ,
    "reads, line": AUDIT | READ | {"service_line_id": LINES[2]},
    "no organization": NOBODY,
    "no organization, refused": NOBODY | REFUSED,
    "no organization, actor": NOBODY | {"actor_id": ADMIN.id},
    "no organization, unknown actor": NOBODY | {"actor_id": VISITOR},
    "no organization, action": NOBODY | BLOCKED,
    "no organization, unknown line": NOBODY | {"service_line_id": UNKNOWN},
    "no organization, line": NOBODY | {"service_line_id": LINES[2]},
    "commands": AUDIT | COMMANDS,
    "actor": AUDIT | {"actor_id": ADMIN.id},
    "rare actor": AUDIT | {"actor_id": VISITOR},
    "unknown actor": AUDIT | {"actor_id": "USR-26-000008", "actor_type": "user"},
    "rare actor, narrow": AUDIT | NARROW | {"actor_id": VISITOR},
    "rare actor, refused": AUDIT | REFUSED | {"actor_id": VISITOR},
    "commands, narrow": AUDIT | NARROW | COMMANDS,
    "refused commands": AUDIT | REFUSED | COMMANDS,
    "action": AUDIT | {"action": ["execution.checked_in"]},
    "rare actions": AUDIT | BLOCKED,
    "action, only refused": AUDIT | RESUMED,
    "missing action": AUDIT | {"action": ["run.failed"]},
    "unknown action": AUDIT | {"action": ["no.such"]},
    "all actions": AUDIT | {"action": sorted({action for action, _ in FACT_EVENT_TYPES})},
    "type of events": AUDIT | {"action": sorted(actions_of("execution.paused"))},
    "types of events": AUDIT | {"action": sorted({a for t in RARE_TYPES for a in actions_of(t)})},
    "rare actions, administrator": {"organization_id": ORGANIZATION} | BLOCKED,
    "rare actions, succeeded": AUDIT | BLOCKED | {"succeeded": "succeeded"},
    "refused actions": AUDIT | BLOCKED | REFUSED,
    "rare actions, rare actor": AUDIT | BLOCKED | {"actor_id": VISITOR},
    "action, another organization": ORG | {"organization_id": OTHER} | BLOCKED,
    "line": AUDIT | {"service_line_id": LINES[2]},
    "line, administrator": {"organization_id": ORGANIZATION, "service_line_id": LINES[2]},
    "line, narrow": AUDIT | NARROW | {"service_line_id": LINES[2]},
    "line, another workspace": AUDIT | RARE | {"service_line_id": LINES[2]},
    "line, rare actor": AUDIT | {"service_line_id": LINES[2], "actor_id": VISITOR},
    "line, refused": AUDIT | REFUSED | {"service_line_id": LINES[2]},
    "line, commands": AUDIT | COMMANDS | {"service_line_id": LINES[2]},
    "line, rare actions": AUDIT
    | {"service_line_id": LINES[2], "type": ["execution.blocked"]}
    | BLOCKED,
    "line, action": AUDIT
    | {"service_line_id": LINES[2], "type": ["execution.checked_in"]}
    | {"action": ["execution.checked_in"]},
    "rare line": AUDIT | {"service_line_id": LINES[98]},
    "unknown line": AUDIT | {"service_line_id": "LIN-26-999999"},
    "another's line": AUDIT | {"service_line_id": LINES[5]},
    "another organization": ORG | {"organization_id": OTHER},
    "refused, another organization": ORG | {"organization_id": OTHER} | REFUSED,
}

BOUNDS = ["", "from", "to", "after"]
BACKWARDS = ["", "from", "to", "before"]


def cases_of(names: Iterable[str]) -> list[tuple[str, str, bool]]:
    """(name, bound, backwards): every pair of a name with a bound, and with a direction."""
    return [
        (name, (BACKWARDS if backwards else BOUNDS)[number], backwards)
        for index, name in enumerate(names)
        for number in range(len(BOUNDS))
        for backwards in [(index + number) % 2 == 1]
    ]


def bounded(past: Past, filters: dict[str, Any], bound: str) -> dict[str, Any]:
    """The filters with a bound, so that the result begins or ends late in the log."""
    position = past.end * 9 // 10
    positions = {"": {}, "after": {"after": position}, "before": {"before": position}}
    return filters | positions.get(bound, {bound: past.late})


def assert_cheap(page: Cost) -> None:
    # Each event passes some scans: the row, the page, and the stored event. The actions have types.
    assert page.rows <= 5 * LIMIT + 40
    assert page.blocks <= 4 * LIMIT + 10


@pytest.mark.parametrize(("name", "bound", "backwards"), cases_of(FEEDS))
def test_a_page_of_the_feed_costs_in_proportion_to_its_rows(
    past: Past, name: str, bound: str, backwards: bool
) -> None:
    values = bounded(past, FEEDS[name], bound)
    read = feeds.feed_read(frozenset(values) - {"after", "before"}, backwards)
    assert_cheap(page_of(past, read, **values))


@pytest.mark.parametrize(("name", "bound", "backwards"), cases_of(AUDITS))
def test_a_page_of_the_audit_log_costs_in_proportion_to_its_rows(
    past: Past, name: str, bound: str, backwards: bool
) -> None:
    values = bounded(past, AUDITS[name], bound)
    read = feeds.audit_read(frozenset(values) - {"after", "before"}, backwards)
    assert_cheap(page_of(past, read, **values))


@pytest.mark.parametrize("name", FEEDS)
def test_pages_forwards_and_backwards_give_the_same_events(past: Past, name: str) -> None:
    def positions_of(backwards: bool) -> list[int]:
        statement = feeds.feed_read(frozenset(FEEDS[name]), backwards).sql
        bounds = {"after": past.end // 2, "before": past.end // 2 + 200, "limit": 1000}
        rows = past.connection.execute(statement.encode(), FEEDS[name] | bounds).fetchall()
        return [row[1] for row in rows if row[1] and row[1] < bounds["before"]]

    assert positions_of(backwards=True) == positions_of(backwards=False)[::-1]


def test_the_measured_pages_have_the_rows_that_the_filters_should_find(past: Past) -> None:
    def found(filters: dict[str, Any], read: Any = feeds.feed_read) -> int:
        ways = (page_of(past, read(frozenset(filters), way), **filters) for way in (False, True))
        (count,) = {way.found for way in ways}
        return count

    assert found(ORG) == LIMIT
    assert 0 < found(FEEDS["rare type"]) < LIMIT
    assert 0 < found(FEEDS["rare workspace"]) < LIMIT
    assert 0 < found(AUDITS["refused"], feeds.audit_read) < LIMIT
    assert 0 < found(AUDITS["commands"], feeds.audit_read) < LIMIT
    assert 0 < found(AUDITS["rare actor"], feeds.audit_read) < LIMIT
    assert 0 < found(AUDITS["rare actions"], feeds.audit_read) < LIMIT
    assert 0 < found(AUDITS["action, only refused"], feeds.audit_read) < LIMIT
    assert found(AUDITS["action"], feeds.audit_read) == LIMIT
    assert found(AUDITS["line"], feeds.audit_read) == LIMIT
    assert found(AUDITS["line, rare actor"], feeds.audit_read) > 0
    assert found(AUDITS["line, refused"], feeds.audit_read) > 0
    assert found(AUDITS["line, commands"], feeds.audit_read) > 0
    assert found(AUDITS["line, rare actions"], feeds.audit_read) == 1
    assert found(AUDITS["another's line"], feeds.audit_read) == 0
    assert found(AUDITS["reads"], feeds.audit_read) == 4
    assert found(AUDITS["reads, line"], feeds.audit_read) == 4
    assert found(AUDITS["no organization"], feeds.audit_read) == 4
    assert found(AUDITS["no organization, unknown line"], feeds.audit_read) == 4
    assert found(AUDITS["no organization, line"], feeds.audit_read) == 0


@pytest.mark.parametrize("bounds", [("recorded_after",), ("recorded_after", "recorded_until")])
def test_a_narrow_part_of_a_history_costs_in_proportion_to_its_rows(
    past: Past, bounds: tuple[str, ...]
) -> None:
    recorded = """SELECT ledger.recorded_at(position) FROM ledger.event
        WHERE line_id = %s ORDER BY position"""
    at = [at for (at,) in past.connection.execute(recorded, (LINES[4],)).fetchall()]
    assert len(at) > 150
    after, until = (100, 103) if len(bounds) == 2 else (-4, -1)
    read = statements.history_read(frozenset(ORG), len(bounds) == 2, frozenset(bounds))
    period = {"recorded_after": at[after], "as_of": at[until], "settled": True, "known_by": at[-1]}
    found = page_of(past, read, line_id=LINES[4], **ORG, **period)
    # The rows of the events and of instants, and the line's first event; not the line's others.
    assert (found.found, found.rows <= 20, found.blocks <= 40) == (3, True, True)


def test_a_single_event_costs_few_rows(past: Past) -> None:
    read = feeds.event_read(frozenset(ORG))
    # The rows of the event, and each view's position, which the feed does not overtake.
    assert page_of(past, read, **ORG, at=past.end).rows <= 4 + len(projections())


def test_a_tail_of_the_log_costs_in_proportion_to_its_rows(past: Past) -> None:
    found = page_of(past, feeds.TAIL, after=past.end - 20)
    assert 15 <= found.found <= 20
    assert_cheap(found)
