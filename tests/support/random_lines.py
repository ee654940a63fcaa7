"""Random lines and random filters, for properties that hold for any lines."""

import json
import random
from collections.abc import Mapping
from typing import Any

from ledger.engine.values.values import (
    CAUSES,
    EXECUTION_MODELS,
    PRODUCT_LINES,
    STATES,
    parse_instant,
)
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.ledger import ADMIN, Ledger, new_id

OTHER = "ORG-26-000002"
WORKSPACES = ["WS-26-000001", "WS-26-000002", "WS-26-000003"]
TAGS = ["PROJ-26-000001", "PROJ-26-000002", "PROJ-26-000003", "organization", "{", ","]

SCARCE = ["SCR-1", "SCR-2", "SCR-3"]
SIGNALS = ["sla_compliance", "delivery_velocity"]
STATUSES = ["green", "amber", "red", "red"]
ASSIGNEES = ["USR-1", "USR-2", "a {name}"]

CHOICES: Mapping[str, list[Any]] = {
    "organization": [ORGANIZATION, OTHER, "ORG-26-000003"],
    "workspace": [*WORKSPACES, ""],
    "workspace_id": [*WORKSPACES, ""],
    "state": list(STATES),
    "execution_model": list(EXECUTION_MODELS),
    "product_line": list(PRODUCT_LINES),
    "project_tag": [*TAGS, "", "nothing"],
    "blocked_cause": list(CAUSES),
    "health": ["green", "amber", "red", "none"],
    "resource_id": [*SCARCE, "nobody"],
    "assignee": [*ASSIGNEES, "nobody"],
    "unassigned": ["true"],
    "overdue": ["true"],
}
OF_NOW = {"resource_id", "assignee", "unassigned", "overdue"}
"""Filters that no question about the past has."""
OWN = ("organization", "workspace")
"""Filters that a credential sets have a single value; the other filters may have several."""


class RandomLines:
    """Random facts about lines of two organizations that share their workspaces' names."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.dice = ledger, random.Random(seed)
        self.lines: list[str] = []

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            facts = [self._activation() for _ in range(self.dice.choice([0, 0, 1, 3]))]
            facts += [self._fact() for _ in range(self.dice.choice([1, 5, 20])) if self.lines]
            self.ledger.report(*facts, by=ADMIN)
            self.ledger.clock.advance(minutes=self.dice.choice([0, 1, 20, 2000]))
            if self.dice.random() < 0.4:
                self.ledger.sweep()
            if self.dice.random() < 0.2:
                self.ledger.projector.forget()
        self.ledger.catch_up()

    def _activation(self) -> dict[str, Any]:
        pick = self.dice.choice
        self.lines.append(new_id("LIN"))
        tenant = {"organization_id": pick([ORGANIZATION, OTHER]), "workspace_id": pick(WORKSPACES)}
        model, product = pick(EXECUTION_MODELS[:3]), pick(PRODUCT_LINES[:2])
        return activation(self.lines[-1], model, product, project_tags=self._tags(), **tenant)

    def _tags(self) -> list[str]:
        return self.dice.choices(TAGS, k=self.dice.choice([0, 1, 2, 4]))

    def _signal(self, line: str) -> dict[str, Any]:
        signal = {"signal": self.dice.choice(SIGNALS), "status": self.dice.choice(STATUSES)}
        return fact("health.signal_reported", line, signal)

    def _fact(self) -> dict[str, Any]:
        line, pick = self.dice.choice(self.lines), self.dice.choice
        blocker = {"blocker_id": pick("abcd")}
        blocked = blocker | {"cause": pick(CAUSES), "assignee": pick([*ASSIGNEES, None])}
        if pick([True, False]):
            blocked["due_at"] = self.ledger.at(days=pick([-1, 0, 1, 3]))
        run = fact("run.requested", new_id("RUN"), {"service_line_id": line})
        return pick(
            [
                fact("service_line.updated", line, {"project_tags": self._tags()}),
                fact("service_line.paused", line),
                fact("service_line.resumed", line),
                fact("execution.blocked", line, blocked),
                fact("execution.blocked", line, blocked | {"blocker_id": pick("efgh")}),
                fact("execution.unblocked", line, blocker),
                fact("execution.checked_in", line, {"hours": 1}),
                self._signal(line),
                self._signal(line),
                fact("resource.allocated", line, {"id": pick(SCARCE), "type": "t"}),
                fact("resource.released", line, {"id": pick(SCARCE)}),
                *([fact("service_line.closed", line)] if self.dice.random() < 0.3 else ()),
                run,
            ]
        )


def random_filters(dice: random.Random) -> dict[str, Any]:
    """Random filters, in the form in which the API passes them on."""
    names = dice.sample(list(CHOICES), k=dice.choice([0, 1, 1, 2, 3]))
    filters: dict[str, Any] = {}
    for name in names:
        values = list(dict.fromkeys(dice.choices(CHOICES[name], k=dice.choice([1, 1, 2, 4]))))
        filters[name] = values[0] if name in OWN else values
    return filters


def parameters_of(ledger: Ledger, filters: dict[str, Any]) -> dict[str, Any]:
    """The filters as parameters of a statement: ``overdue`` is an instant."""
    return filters | ({"overdue": ledger.clock.now} if "overdue" in filters else {})


Row = tuple[dict[str, Any], dict[str, set[Any]]]
"""A row of the view, and its values of each filter."""


def rows_of_lines(ledger: Ledger) -> list[Row]:
    """The rows of all lines, for requests with any filters."""
    found = []
    for row in ledger.rows("SELECT * FROM ledger.execution"):
        item = json.loads(f"{{{row['head']},{row['extra']}}}")
        row["state_since"], row["health_score"] = item["state_since"], item["health_score"]
        assignees = {blocker["assignee"] for blocker in item["blockers"]}
        due = [parse_instant(b["due_at"]) for b in item["blockers"] if b["due_at"]]
        row["due_at"] = min(due, default=None)
        is_overdue = bool(due) and row["due_at"] < ledger.clock.now
        has = {
            "organization": {row["organization_id"]},
            "workspace": {row["workspace_id"]},
            "workspace_id": {row["workspace_id"]},
            "state": {row["state"]},
            "execution_model": {row["execution_model"]},
            "product_line": {row["product_line"]},
            "project_tag": set(row["project_tags"]),
            "blocked_cause": set(row["causes"]),
            "health": {item["health_status"] or "none"},
            "resource_id": {resource["id"] for resource in item["resources"]},
            "assignee": assignees - {None},
            "unassigned": {"true"} if None in assignees else set(),
            "overdue": {"true"} if is_overdue else set(),
        }
        found.append((row, has))
    return found


def matching(rows: list[Row], filters: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the lines that match all filters; each row is checked by itself."""
    return [
        row
        for row, has in rows
        if all(has[n] & ({values} if n in OWN else set(values)) for n, values in filters.items())
    ]
