"""A comparison equals a model of the raw log at both of its instants, at random."""

import json
from datetime import datetime
from typing import Any

import pytest

from ledger.app.settings import Settings
from tests.support.edge import edge_of
from tests.support.service import Clock
from tests.support.soak import repeated
from tests.support.usage_model import Query, Sums, Usage, UsageModel, instant_of, iso, period_of
from tests.usage.test_usage_of_random_lines import (
    BEGINNINGS,
    TENANTS,
    Draw,
    Log,
    Workplace,
    walked,
)

OF_HISTORY = ("execution.", "resource.", "health.", "run.")
OF_LINE = ("health_score", "open_blockers", "open_runs")
OF_PERIOD = ("hours", "check_ins", "runs", "runs_failed", "tokens_used", "seconds_blocked")
CHANGES = ("newly_blocked", "cleared", "still_blocked", "newly_paused", "closed", "started")


class Compared:
    """The answer that the log gives to the parameters of a comparison."""

    def __init__(self, log: Log, by: str, params: dict[str, str]) -> None:
        self.log, self.params, self.tenant = log, params, TENANTS[by]
        self.question = Query(params, *self.tenant)
        self.at = [instant_of(self.question.zone, params[name]) for name in ("then", "now")]
        self.models = [log.by(at) for at in self.at]
        self.has_period = "from" in params
        self.sums = [self._sums(*each) for each in zip(self.models, self.at, strict=True)]

    def _sums(self, model: UsageModel, clock: datetime) -> dict[str, Sums]:
        """The sums of each line, whatever project it had then."""
        if not self.has_period:
            return {}
        names = {"from", "to", "time_zone", "resource_id"} & self.params.keys()
        question = Query({name: self.params[name] for name in names}, None, None)
        grouped = Usage(question, model, self.log.now, clock)._grouped(("service_line",))
        return {str(keys[0]): sums for keys, sums in grouped.items()}

    def events(self) -> dict[str, list[str]]:
        """The events of each line between both instants."""
        found: dict[str, list[str]] = {}
        for event, at in zip(self.log.events, self.log.recorded, strict=True):
            if self.at[0] < at <= self.at[1] and event["topic"].startswith(OF_HISTORY):
                line = event["state"].get("service_line_id") or event["originator_id"]
                name = f"EVT-{at.year % 100:02d}-{event['notification_id']:06d}"
                found.setdefault(line, []).append(name)
        return found

    def side(self, line: str, at: int) -> dict[str, Any]:
        """The line as it was known; nulls if it was not known."""
        names = ("state", "health_status", *OF_LINE, *OF_PERIOD)
        model_line = self.models[at].lines.get(line)
        found: dict[str, Any] = dict.fromkeys(names)
        if model_line is None:
            return found
        score = model_line.score
        status = None
        if score is not None:
            status = "green" if score >= 70 else "amber" if score >= 50 else "red"
        found |= {"state": model_line.state, "health_status": status, "health_score": score}
        found["open_blockers"] = len(model_line.blockers)
        found["open_runs"] = len(self.models[at].open_runs(line))
        if self.has_period:
            sums = self.sums[at].get(line, Sums())
            found |= {"hours": float(sums.hours), "check_ins": sums.check_ins}
            if not self.question.of_check_ins:
                found |= {"runs": sums.runs.total(), "runs_failed": sums.runs["failed"]}
                found["tokens_used"] = sums.tokens
                found["seconds_blocked"] = sums.states["blocked"] / 1_000_000
        return found

    def answer(self) -> dict[str, Any]:
        rows, sides, count = [], [], 0
        now = self.models[1]
        for line, events in sorted(self.events().items(), key=lambda each: _number_key(each[0])):
            if line not in now.lines or not self.question.has(line, now.lines[line]):
                continue
            workspace, organization = now.lines[line].workspace, now.lines[line].organization
            then, later = self.side(line, 0), self.side(line, 1)
            sides.append((then, later))
            count += len(events)
            row: dict[str, Any] = {
                "service_line_id": line,
                "service_line_name": now.line_names[line],
                "workspace_id": workspace,
                "workspace_name": now.directory.get((organization, workspace or "")),
            }
            for name in ("state", "health_status"):
                row[name] = {"then": then[name], "now": later[name]}
            row |= {name: _pair(then[name], later[name]) for name in OF_LINE}
            row["events"] = {"count": len(events), "first": events[0], "last": events[-1]}
            row |= {name: _pair(then[name], later[name]) for name in OF_PERIOD}
            rows.append(row)
        start = end = None
        if self.has_period:
            bounds = self.params["from"], self.params["to"]
            start, end = map(iso, period_of(self.question.zone, *bounds, self.at[1]))
        then_at, now_at = map(iso, self.at)
        times = {"then": then_at, "now": now_at, "from": start, "to": end}
        return times | {"total": self._total(sides, count), "rows": rows}

    def _total(self, sides: list[tuple[dict[str, Any], dict[str, Any]]], count: int) -> Any:
        states = [(then["state"], now["state"]) for then, now in sides]
        holds = (
            lambda a, b: b == "blocked" != a,
            lambda a, b: a == "blocked" != b,
            lambda a, b: a == b == "blocked",
            lambda a, b: b == "paused" != a,
            lambda a, b: b == "closed" != a,
            lambda a, b: a is None,
        )
        total: dict[str, Any] = {
            "lines": len(sides),
            "lines_changed": sum(then != now for then, now in sides),
            "events": count,
            "states": {
                name: sum(hold(*pair) for pair in states)
                for name, hold in zip(CHANGES, holds, strict=True)
            },
        }
        for name in (*OF_LINE[1:], *OF_PERIOD):
            is_null = name in OF_PERIOD and not self.has_period
            is_null |= self.question.of_check_ins and name in OF_PERIOD[2:]
            sums = [round(sum(side[at][name] or 0 for side in sides), 6) for at in (0, 1)]
            total[name] = _pair(None, None) if is_null else _pair(*sums)
        return total


def _pair(then: Any, now: Any) -> dict[str, Any]:
    change = None if then is None or now is None else round(now - then, 6)
    return {"then": then, "now": now, "change": change}


def _number_key(line: str) -> list[int]:
    return [int(part) for part in line.split("-")[1:]]


@pytest.mark.parametrize(
    ("seed", "questions"), repeated([(1, 30), *((seed, 300) for seed in range(2, 8))])
)
def test_a_comparison_is_what_a_model_of_the_log_tells(
    conninfo: str, settings: Settings, seed: int, questions: int
) -> None:
    clock = Clock(BEGINNINGS[seed % len(BEGINNINGS)])
    with edge_of(settings, conninfo, clock) as edge:
        world = Workplace(edge, seed)
        for _ in range(40):
            world.work()
            world.move()
        log, rows = Log(conninfo), 0
        draw = Draw(log, seed, clock.now)
        for number in range(questions):
            by, params = draw.question(("service_line",))
            zone = params.get("time_zone", "UTC")
            for name in ("group_by", "as_of"):
                params.pop(name, None)
            if not {"from", "to"} <= params.keys() or number % 4 == 0:
                params = {k: v for k, v in params.items() if k not in ("from", "to")}
            instants = sorted((draw.instant(zone) for _ in "AB"), key=lambda t: instant_of(zone, t))
            params |= dict(zip(("then", "now"), instants, strict=True))
            data = walked(world, "/v1/compare", by, params, draw)
            assert json.dumps(data, sort_keys=True) == json.dumps(
                Compared(log, by, params).answer(), sort_keys=True
            ), (by, params)
            rows += len(data["rows"])
        assert rows > 20
