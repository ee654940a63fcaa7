"""A line's random life over HTTP, and what its story must be, told anew from the contract alone.

The timeline is derived from the history, the usage from the facts that were accepted; neither
shares code with the service.
"""

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg

from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.ledger import new_id

SECRET = "planted-in-a-payload"
STATES = ["running", "idle", "paused", "blocked", "closed"]
CAUSES = ["approval_gap", "capacity_issue", "policy_violation", "delivery_blocker"]
STATUSES = ["pending", "running", "completed", "failed", "cancelled"]
CHANGES = {
    "execution.started", "execution.paused", "execution.resumed", "execution.blocked",
    "execution.unblocked", "execution.idle", "execution.active", "execution.closed",
}  # fmt: skip

_ZONES = [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
_BEHIND = [-200, 0, 1, 60, 899, 5_000, 40_000, 90_000, 250_000]
_AHEAD = [0, 0, 1, 60, 400, 1_000, 9_000, 40_000]

Held = tuple[str, frozenset[str]]
"""A state with the causes that are open in it."""


class Life:
    """One line; what happens to it is left to chance, what was accepted is kept."""

    def __init__(self, edge: Edge, seed: int, token: str | None = None, **tenant: str) -> None:
        self.edge, self.random, self.token = edge, random.Random(seed), token
        self.line = edge.fresh_id()
        self.accepted: list[dict[str, Any]] = []
        self.runs: list[str] = []
        self.open: list[str] = []
        began = (edge.clock.now - timedelta(days=2)).isoformat()
        edge.accept(activation(self.line, time=began, **tenant), token=token)

    def live(self, batches: int) -> None:
        """Facts in batches, the operator's own word, idleness; the clock goes on in between."""
        pick = self.random.choice
        for _ in range(batches):
            self.report(*(self._fact() for _ in range(pick([1, 2, 4, 9]))))
            if self.random.random() < 0.2:
                path = f"/v1/execution/{self.line}/{pick(['pause', 'resume', 'resume', 'resume'])}"
                answer = self.edge.post(path, self.token, json={"reason": "r"})
                assert answer.status_code in (200, 409)
            if self.random.random() < 0.15:
                self._calm_down()
            self.edge.clock.advance(seconds=pick(_AHEAD), microseconds=pick([0, 7]))
        self.edge.clock.advance(seconds=600)

    def _calm_down(self) -> None:
        """All that keeps the line from going idle ends, and it does."""
        lifted = [fact("execution.unblocked", self.line, {"blocker_id": b}) for b in "abc"]
        lifted.append(fact("service_line.resumed", self.line))
        lifted += [fact("run.cancelled", run) for run in self.open]
        self.report(*(event | {"time": self._time()} for event in lifted))
        self.edge.post(f"/v1/execution/{self.line}/resume", self.token)
        self.edge.clock.advance(seconds=2_000)
        self.edge.run(self.edge.service.sweep())

    def close(self) -> None:
        """The end, with some late news after it."""
        self.report(fact("service_line.closed", self.line, time=self._time()))
        self.edge.clock.advance(seconds=3_000)
        for _ in range(6):
            self.report(*(self._fact() for _ in range(6)))

    def report(self, *events: dict[str, Any]) -> None:
        """Send a batch; refusals are part of life."""
        items = self.edge.send_batch(*events, token=self.token).json()["data"]
        for event, item in zip(events, items, strict=True):
            if item["outcome"] == "recorded":
                self.accepted.append(event | {"subject": item["subject"]})
                self._note(event["type"], item["subject"])

    def _note(self, kind: str, subject: str) -> None:
        if kind in ("run.requested", "run.started"):
            self.runs.append(subject)
            self.open.append(subject)
        elif kind.startswith("run."):
            self.open = [run for run in self.open if run != subject]

    def _time(self) -> str:
        at = self.edge.clock.now - timedelta(seconds=self.random.choice(_BEHIND))
        return at.astimezone(self.random.choice(_ZONES)).isoformat()

    def _fact(self) -> dict[str, Any]:
        pick, line = self.random.choice, self.line
        run = new_id("RUN") if self.random.random() < 0.7 else pick([*self.open, new_id("RUN")])
        known = pick(self.open or [run]) if self.random.random() < 0.9 else pick([*self.runs, run])
        begun = {"service_line_id": line, "input": {"word": SECRET}}
        blocker = {"blocker_id": pick("abc"), "reason": "because"}
        signal = {"signal": pick(["sla_compliance", "agent_error_rate"]), "status": pick(_LIGHTS)}
        check_ins = [e["id"] for e in self.accepted if e["type"] == "execution.checked_in"]
        hours = {"hours": pick([0, 0.01, 1.25, 7.6, None]), "resource_id": pick(["a", "b", None])}
        used = {"tokens_used": pick([None, 0, 5, 1_000]), "output": [SECRET]}
        error = {"error": {"code": SECRET, "message": SECRET}}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (1, fact("service_line.updated", line, {"project_tags": [pick("xyz")]})),
            (2, fact("service_line.paused", line, {"reason": "later"})),
            (8, fact("service_line.resumed", line)),
            (9, fact("execution.checked_in", line, hours)),
            (2, fact("execution.check_in_voided", line, {"fact_id": pick([*check_ins, "none"])})),
            (3, fact("execution.blocked", line, blocker | {"cause": pick(CAUSES)})),
            (7, fact("execution.unblocked", line, blocker)),
            (1, fact("resource.allocated", line, {"id": pick("rs"), "type": "t"})),
            (1, fact("resource.released", line, {"id": pick("rs")})),
            (2, fact("health.signal_reported", line, signal)),
            (3, fact("run.requested", run, begun)),
            (7, fact("run.started", run, begun)),
            (9, fact("run.completed", known, used)),
            (4, fact("run.failed", known, used | error)),
            (3, fact("run.cancelled", known, {"reason": "enough"})),
        ]
        weights = [weight for weight, _ in kinds]
        event = self.random.choices([event for _, event in kinds], weights)[0]
        return event | {"time": self._time()}


_LIGHTS = ["green", "green", "amber", "red"]


def history_of(
    edge: Edge, line: str, limit: int = 100, token: str | None = None
) -> list[dict[str, Any]]:
    """A line's whole history, page by page, once the views have all of the log."""
    rows: list[dict[str, Any]] = []
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    params: dict[str, Any] = {"limit": limit}
    while True:
        path = f"/v1/execution/{line}/history"
        answer = edge.get(path, token, params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["meta"]["has_more"] <= (len(page["data"]) == limit)
        rows += page["data"]
        if not page["meta"]["has_more"]:
            return rows
        params["cursor"] = page["meta"]["cursor"]


def touched(edge: Edge, statement: str, values: dict[str, Any]) -> int:
    """Rows that a statement's plan gave or threw away, all nodes together."""
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        # What a database that has been up for a while knows of its tables.
        connection.execute("ANALYZE")
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode()
        ((plans,),) = connection.execute(explain, values).fetchall()

    def rows(node: dict[str, Any]) -> int:
        own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return int(own * node["Actual Loops"]) + sum(map(rows, node.get("Plans", [])))

    return rows(plans[0]["Plan"])


def turns_of(history: Iterable[dict[str, Any]]) -> list[tuple[datetime, Held]]:
    """What held from when on, by effective time = max(time, the previous change's)."""
    turns: list[tuple[datetime, Held]] = []
    blockers: dict[str, str] = {}
    for event in history:
        if event["type"] not in CHANGES:
            continue
        at = datetime.fromisoformat(event["occurred_at"])
        effective = max(at, turns[-1][0]) if turns else at
        payload = event["payload"]
        if event["type"] == "execution.blocked":
            blockers[payload["blocker_id"]] = payload["cause"]
        elif event["type"] == "execution.unblocked":
            del blockers[payload["blocker_id"]]
        elif event["type"] == "execution.closed":
            blockers.clear()
        turns.append((effective, (event["state_after"], frozenset(blockers.values()))))
    return turns


def timeline_of(
    turns: list[tuple[datetime, Held]],
    start: datetime | None,
    end: datetime | None,
    now: datetime,
) -> list[dict[str, Any]]:
    """The answer's intervals, built from what held at each instant at which something may turn."""
    begin = max(turns[0][0], start or turns[0][0])
    points = {at for at, _ in turns} | {begin}
    points = {at for at in points if at >= begin and (end is None or at < end)}
    found: list[dict[str, Any]] = []
    for at in sorted(points):
        state, causes = [held for since, held in turns if since <= at][-1]
        ordered = [cause for cause in CAUSES if cause in causes]
        if found and (found[-1]["state"], found[-1]["causes"]) == (state, ordered):
            continue
        if found:
            found[-1]["to"] = at
        found.append({"state": state, "causes": ordered, "from": at, "to": None})
    if found and end is not None and end <= now:
        found[-1]["to"] = end
    for one in found:
        until = one["to"] or max(now, one["from"])
        one["seconds"] = (until - one["from"]).total_seconds()
    return found


def usage_of(
    accepted: Iterable[dict[str, Any]], start: datetime, end: datetime
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(total, by day) of what was used, from the facts that were accepted, in their order."""
    hours: dict[str, tuple[datetime, tuple[str | None, Decimal]]] = {}
    started: dict[str, datetime] = {}
    statuses: dict[str, str] = {}
    tokens: list[tuple[datetime, int]] = []
    for event in accepted:
        at, data = datetime.fromisoformat(event["time"]).astimezone(UTC), event["data"]
        kind, run = event["type"].split(".")[1], event["subject"]
        if kind == "checked_in":
            amount = Decimal(str(data.get("hours") or 0))
            hours[event["id"]] = at, (data.get("resource_id"), amount)
        elif kind == "check_in_voided":
            del hours[data["fact_id"]]
        elif kind == "closed":
            ended = {"completed", "failed", "cancelled"}
            statuses = {r: s if s in ended else "cancelled" for r, s in statuses.items()}
        elif event["type"].startswith("run."):
            statuses[run] = {"requested": "pending", "started": "running"}.get(kind, kind)
            if kind == "started":
                started[run] = at
            tokens.append((at, data.get("tokens_used") or 0))
    runs = [(at, statuses[run]) for run, at in started.items()]
    total = _sums(hours.values(), runs, tokens, start, end)
    days, midnight = {}, datetime(start.year, start.month, start.day, tzinfo=UTC)
    while midnight < end:
        following = midnight + timedelta(days=1)
        bounds = max(midnight, start), min(following, end)
        days[midnight.date().isoformat()] = _sums(hours.values(), runs, tokens, *bounds)
        midnight = following
    return total, days


def _sums(
    hours: Iterable[tuple[datetime, tuple[str | None, Decimal]]],
    runs: Iterable[tuple[datetime, str]],
    tokens: Iterable[tuple[datetime, int]],
    start: datetime,
    end: datetime,
) -> dict[str, Any]:
    by_resource: dict[str | None, Decimal] = {}
    for at, (resource, amount) in hours:
        if start <= at < end:
            by_resource[resource] = by_resource.get(resource, Decimal(0)) + amount
    named = sorted(resource for resource in by_resource if resource is not None)
    order = [r for r in [*named, None] if by_resource.get(r)]
    counts = Counter(status for at, status in runs if start <= at < end)
    return {
        "hours": float(sum(by_resource.values())),
        "hours_by_resource": [{"resource_id": r, "hours": float(by_resource[r])} for r in order],
        "runs": {status: counts[status] for status in STATUSES},
        "tokens_used": sum(amount for at, amount in tokens if start <= at < end),
    }
