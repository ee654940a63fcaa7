"""The names that people use in the story: of lines, and of workspaces and projects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from ledger.demo import words
from ledger.demo.cast import (
    FIRST_PROJECT_NUMBERS,
    PRIMARY_ORGANIZATION,
    SEED_LINES,
    SEED_TALENT,
    Line,
)
from ledger.demo.cast import WORKSPACES as WORKSPACE_IDS
from ledger.demo.facts import StoryFact, tell

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


def line_name(line: Line) -> str:
    """The name of a line: the client's, and that of the team, unit or agent."""
    if line.product_line == "agent_gateway":
        part = words.AGENTS[line.position].name
    elif line.product_line == "talent":
        part = TEAMS[line.position % len(TEAMS)]
    else:
        _, _, units = words.UNITS[line.product_line]
        part = units[line.position % len(units)]
    return f"{WORKSPACES[line.workspace_id]}: {part}"


def directory_facts(lines: Sequence[Line]) -> Iterator[StoryFact]:
    """Name an organization's workspaces and projects shortly before its first line begins."""
    first = {line.organization_id: line for line in reversed(lines)}
    for organization_id, line in first.items():
        for turn, (identifier, name) in enumerate(_names(organization_id, line.year)):
            yield tell(
                line.opened - timedelta(minutes=5) + timedelta(seconds=turn),
                "directory.named",
                identifier,
                {"name": name, "organization_id": organization_id},
                source=DIRECTORY,
                id=f"named-{identifier}",
                actor=("user", line.lead),
            )


def _names(organization_id: str, year: str) -> Iterator[tuple[str, str]]:
    """The (id, name) pairs of an organization's workspaces and projects."""
    for workspace_id in WORKSPACE_IDS[organization_id]:
        yield workspace_id, WORKSPACES[workspace_id]
    for number, name in enumerate(PROJECTS, FIRST_PROJECT_NUMBERS[organization_id]):
        yield f"PROJ-{year}-{number:06d}", name
    *_, tag = SEED_LINES[SEED_TALENT]
    if organization_id == PRIMARY_ORGANIZATION and tag is not None and year not in tag[:8]:
        yield tag, PROJECTS[0]
