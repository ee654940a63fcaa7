"""The shape of a fact, and the names that people use: of lines, workspaces and projects.

A fact is one structured CloudEvent as a plain dict, and the instant it happened.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ledger.app.demo import words
from ledger.app.demo.cast import (
    FIRST_PROJECT_NUMBERS,
    PRIMARY_ORGANIZATION,
    SEED_LINES,
    SEED_TALENT,
    CastLine,
)
from ledger.app.demo.cast import WORKSPACES as WORKSPACE_IDS

Actor = tuple[str, str]
"""Actor type (`user`, `agent`) and id."""

DIRECTORY = "/directory"

WORKSPACES = {
    "WS-26-000021": "Halden Bank",
    "WS-26-000022": "Kestrel Health",
    "WS-26-000024": "Northwind Logistics",
    "WS-26-000031": "Ostrava Rail",
    "WS-26-000032": "Meridian Foods",
}

PROJECTS = (
    "Checkout",
    "Customer portal",
    "Data platform",
    "Invoice archive",
    "Mobile banking",
    "Appointment booking",
    "Route planner",
    "Ticket machines",
    "Recipe database",
    "Identity and access",
    "Reporting",
    "Warehouse scanner",
)
"""The names of an organization's projects, in the order of their numbers."""

TEAMS = ("backend team", "frontend team", "mobile team", "quality engineers", "data engineers")


class StoryFact(NamedTuple):
    """A fact with its time as an instant, so that facts sort by time rather than by text."""

    at: datetime
    fact: dict[str, Any]


def rfc3339(at: datetime) -> str:
    """Write a UTC instant with `Z`, with milliseconds if it has any."""
    spec = "milliseconds" if at.microsecond else "seconds"
    return at.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def tell(
    at: datetime,
    type: str,
    subject: str,
    data: dict[str, Any],
    *,
    source: str,
    id: str,
    actor: Actor | None = None,
) -> StoryFact:
    """Make one fact without the keys of `data` that hold None, as a sender would leave them out."""
    fact: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": rfc3339(at),
        "data": {key: value for key, value in data.items() if value is not None},
    }
    if actor is not None:
        fact["actortype"], fact["actorid"] = actor
    return StoryFact(at, fact)


def line_name(line: CastLine) -> str:
    if line.product_line == "agent_gateway":
        part = words.AGENTS[line.position].name
    elif line.product_line == "talent":
        part = TEAMS[line.position % len(TEAMS)]
    else:
        _, _, units = words.UNITS[line.product_line]
        part = units[line.position % len(units)]
    return f"{WORKSPACES[line.workspace_id]}: {part}"


def directory_facts(lines: Sequence[CastLine]) -> Iterator[StoryFact]:
    """Name an organization's workspaces and projects shortly before its first line begins."""
    first = {line.organization_id: line for line in reversed(lines)}
    for organization_id, line in first.items():
        for number, (identifier, name) in enumerate(_names(organization_id, line.year)):
            yield tell(
                line.opened - timedelta(minutes=5) + timedelta(seconds=number),
                "directory.named",
                identifier,
                {"name": name, "organization_id": organization_id},
                source=DIRECTORY,
                id=f"named-{identifier}",
                actor=("user", line.lead),
            )


def _names(organization_id: str, year: str) -> Iterator[tuple[str, str]]:
    for workspace_id in WORKSPACE_IDS[organization_id]:
        yield workspace_id, WORKSPACES[workspace_id]
    for number, name in enumerate(PROJECTS, FIRST_PROJECT_NUMBERS[organization_id]):
        yield f"PROJ-{year}-{number:06d}", name
    *_, tag = SEED_LINES[SEED_TALENT]
    if organization_id == PRIMARY_ORGANIZATION and tag is not None and year not in tag[:8]:
        yield tag, PROJECTS[0]
