"""The facts that a line reports: its activation, people, check-ins, holds and health."""

from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from itertools import count
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple

from ledger.app.demo import words
from ledger.app.demo.cast import SEED_AGENT, SEED_TALENT, CastLine, Closing, Interruption
from ledger.app.demo.facts import Actor, StoryFact, line_name, rfc3339, tell

Resource = dict[str, Any]

ENGAGEMENTS = {
    "talent": "/talent/engagements",
    "managed_services": "/managed-services/pods",
    "ods": "/ods/scopes",
    "infrastructure": "/infrastructure/estates",
    "intelligence": "/intelligence/configurations",
    "agent_gateway": "/agent-gateway/deployments",
}
REPORTS = {
    "talent": ("/talent/timesheets", "ts"),
    "managed_services": ("/managed-services/reports", "report"),
    "ods": ("/ods/check-ins", "check-in"),
    "infrastructure": ("/infrastructure/operations", "ops"),
    "intelligence": ("/intelligence/scorecards", "scorecard"),
}
ALLOCATIONS = "/capacity/allocations"
INCIDENTS = "/incidents"
SIGNALS = "/observability/signals"
GATEWAY: Actor = ("agent", "platform")

CADENCE = {
    "talent": (0, 1, 2, 3, 4),
    "managed_services": (0, 1, 2, 3, 4),
    "ods": (0, 2, 4),
    "infrastructure": (0, 2, 4, 6),
    "intelligence": (0, 1, 2, 3, 4, 5, 6),
}
"""The weekdays on which each product line checks in; an agent line only reports its runs."""


class Assignment(NamedTuple):
    """A resource's time on a line; `change`, if any, is the resource that replaces it half-way."""

    resource: Resource
    begin: datetime
    end: datetime | None = None
    change: tuple[datetime, Resource] | None = None


def line_facts(line: CastLine) -> Iterator[StoryFact]:
    """Tell all facts about a line but its runs: activation first, the rest in any order."""
    assignments = _assignments(line)
    yield _activation(line, [each.resource for each in assignments if each.begin == line.opened])
    yield from _allocations(line, assignments)
    yield from _check_ins(line, assignments)
    yield from _holds(line)
    yield from _health(line)
    if line.index % 8 == 3 and line.execution_id is None:
        tags = sorted({*line.project_tags, f"PROJ-{line.year}-{4700 + line.index:06d}"})
        at = line.opened + timedelta(days=5, minutes=line.index)
        yield _own(line, at, "service_line.updated", "tags", {"project_tags": tags})
    if line.index % 8 == 5:
        at = line.opened + timedelta(days=4, minutes=line.index)
        name = f"{line_name(line)} (EU)"
        yield _own(line, at, "service_line.updated", "renaming", {"name": name})
    if line.fate == "closed":
        reason = words.CLOSINGS[line.product_line]
        yield _own(line, line.over, "service_line.closed", "closing", {"reason": reason})


def _own(line: CastLine, at: datetime, type: str, word: str, data: dict[str, Any]) -> StoryFact:
    return tell(
        at,
        type,
        line.id,
        data,
        source=ENGAGEMENTS[line.product_line],
        id=f"{word}-{line.number}",
        actor=GATEWAY if word == "activation" else ("user", line.lead),
    )


def _activation(line: CastLine, resources: list[Resource]) -> StoryFact:
    data = {
        "organization_id": line.organization_id,
        "workspace_id": line.workspace_id,
        "product_line": line.product_line,
        "execution_model": line.execution_model,
        "project_tags": list(line.project_tags),
        "resources": resources,
        "execution_id": line.execution_id,
        "name": line_name(line),
    }
    if line.product_line == "talent":
        # Engagements start with the day, though they are confirmed in the morning.
        data["started_at"] = f"{line.opened:%Y-%m-%d}T00:00:00Z"
    return _own(line, line.opened, "service_line.activated", "activation", data)


def _assignments(line: CastLine) -> list[Assignment]:
    if line.product_line == "talent":
        return _people(line)
    if line.product_line == "agent_gateway":
        agent = words.AGENTS[line.position]
        return [Assignment(_resource("agent", agent_id(line), agent.name, agent.role), line.opened)]
    kind, prefix, names = words.UNITS[line.product_line]
    hours = 120 if line.product_line == "managed_services" else None
    unit = _resource(
        kind,
        f"{prefix}-{line.year}-{8 + line.index:06d}",
        names[line.position % len(names)],
        None,
        hours,
    )
    if line.product_line != "managed_services" or line.position % 3:
        return [Assignment(unit, line.opened)]
    half = line.opened + (line.quiet - line.opened) // 2
    return [
        Assignment(
            unit, line.opened, change=(_whole(half), {**unit, "allocated_hours_per_week": 160})
        )
    ]


def _people(line: CastLine) -> list[Assignment]:
    """Staff a talent line: one to three people; some leave, join late or change their hours."""
    rng = line.chance("people")
    people = []
    for number in range(1 + line.position % 3):
        name, role = words.PEOPLE[(line.index * 3 + number) % len(words.PEOPLE)]
        people.append(
            _resource(
                "talent",
                f"SCR-{128_500 + line.index * 4 + number}",
                name,
                role,
                rng.choice((40, 40, 32, 20)),
            )
        )
    if (line.product_line, line.position) == SEED_TALENT:
        people = [
            _resource("talent", "SCR-128491", "Allocated engineer", "senior_backend_engineer", 40)
        ]
    span = line.quiet - line.opened
    part = _whole(line.opened + span * rng.uniform(0.35, 0.6))
    assignments = [Assignment(each, line.opened) for each in people]
    if len(people) == 2:
        change = (part, {**people[0], "allocated_hours_per_week": 24, "role": "tech_lead"})
        assignments[0] = Assignment(people[0], line.opened, change=change)
    elif len(people) == 3:
        assignments[1] = Assignment(people[1], line.opened, end=part)
        assignments[2] = Assignment(people[2], part + timedelta(hours=1))
    return assignments


def agent_id(line: CastLine) -> str:
    """The agent that an agent line runs; the seed's line keeps the seed's agent."""
    if (line.product_line, line.position) == SEED_AGENT:
        return "AGT-26-000012"
    return f"AGT-{line.year}-{20 + line.position:06d}"


def _resource(
    kind: str, id: str, name: str, role: str | None, hours: int | None = None
) -> Resource:
    resource: Resource = {"type": kind, "id": id, "name": name, "role": role}
    resource |= {"allocated_hours_per_week": hours, "status": "active"}
    return {key: value for key, value in resource.items() if value is not None}


def _allocations(line: CastLine, assignments: list[Assignment]) -> Iterator[StoryFact]:
    numbers = count(1)

    def allocation(at: datetime, type: str, data: dict[str, Any]) -> StoryFact:
        id = f"allocation-{line.number}-{next(numbers)}"
        return tell(at, type, line.id, data, source=ALLOCATIONS, id=id, actor=("user", line.lead))

    for each in assignments:
        if each.begin > line.opened:
            yield allocation(each.begin, "resource.allocated", each.resource)
        if each.change is not None:
            yield allocation(each.change[0], "resource.allocated", each.change[1])
        if each.end is not None:
            yield allocation(each.end, "resource.released", {"id": each.resource["id"]})


def _check_ins(line: CastLine, assignments: list[Assignment]) -> Iterator[StoryFact]:
    if line.product_line not in CADENCE:
        return
    rng = line.chance("check-ins")
    numbers = count(1)
    for at in _working_moments(line, rng):
        present = [
            each for each in assignments if each.begin <= at and (each.end is None or at < each.end)
        ]
        for number, each in enumerate(present):
            # The team's check-ins are minutes apart; only the last is at the line's quiet moment.
            moment = at - timedelta(minutes=7 * (len(present) - 1 - number))
            if moment <= each.begin:
                continue
            yield from _check_in(line, moment, each, rng, numbers)


def _check_in(
    line: CastLine, at: datetime, assignment: Assignment, rng: Random, numbers: Iterator[int]
) -> Iterator[StoryFact]:
    """Tell one check-in; now and then also that it was wrong, followed by the right check-in."""
    source, prefix = REPORTS[line.product_line]
    reporter = ("user", line.lead)

    def check_in(at: datetime, hours: float | None) -> StoryFact:
        data = {
            "hours": hours,
            "note": rng.choice(words.NOTES[line.product_line]),
            "resource_id": None if hours is None else assignment.resource["id"],
        }
        id = f"{prefix}-{line.number}-{next(numbers):04d}"
        return tell(at, "execution.checked_in", line.id, data, source=source, id=id, actor=reporter)

    hours = _hours(line.product_line, assignment.resource, rng)
    first = check_in(at, hours)
    yield first
    later = at + timedelta(minutes=rng.randrange(20, 400))
    if hours is None or rng.random() > 0.025 or later + timedelta(minutes=2) >= line.quiet:
        return
    void = {"fact_id": first.fact["id"], "reason": rng.choice(words.VOIDS)}
    id = f"void-{first.fact['id']}"
    yield tell(
        later, "execution.check_in_voided", line.id, void, source=source, id=id, actor=reporter
    )
    yield check_in(later + timedelta(minutes=2), round(max(hours - 2, 0.5), 2))


def _working_moments(line: CastLine, rng: Random) -> Iterator[datetime]:
    """Choose a moment on each working day on which the line was not held, then its quiet moment."""
    day = line.opened.date() + timedelta(days=1)
    while True:
        at = datetime.combine(day, time(15), line.opened.tzinfo) + timedelta(
            seconds=rng.randrange(12_600)
        )
        if at + timedelta(hours=1) >= line.quiet:
            break
        if day.weekday() in CADENCE[line.product_line] and not line.held(at):
            yield at
        day += timedelta(days=1)
    yield line.quiet


def late_reports(
    lines: Sequence[CastLine], facts: Sequence[StoryFact], closing: Closing
) -> Iterator[StoryFact]:
    """Report a timesheet of a closed month late, and void a check-in of it, both in ``late_at``."""
    (seed,) = (line for line in lines if (line.product_line, line.position) == SEED_TALENT)
    source, prefix = REPORTS[seed.product_line]
    friday = closing.beyond - timedelta(days=1 + (closing.beyond.weekday() + 2) % 7, hours=-17)
    sheet = tell(
        friday,
        "execution.checked_in",
        seed.id,
        {"hours": 7.5, "note": words.LATE_NOTE, "resource_id": "SCR-128491"},
        source=source,
        id=f"{prefix}-{seed.number}-late",
        actor=("user", seed.lead),
    )
    yield sheet._replace(at=closing.late_at)
    wrong = _last_of_month(lines, facts, closing).fact
    data = {"fact_id": wrong["id"], "reason": words.VOIDS[1]}
    id, actor = f"void-{wrong['id']}", (wrong["actortype"], wrong["actorid"])
    yield tell(
        closing.late_at,
        "execution.check_in_voided",
        wrong["subject"],
        data,
        source=wrong["source"],
        id=id,
        actor=actor,
    )


def _last_of_month(
    lines: Sequence[CastLine], facts: Sequence[StoryFact], closing: Closing
) -> StoryFact:
    """The last check-in with hours of a closed month, of another line that still runs."""
    running = {
        line.id
        for line in lines
        if line.organization_id == closing.organization_id
        and line.fate == "running"
        and (line.product_line, line.position) != SEED_TALENT
    }
    voided = {each.fact["data"].get("fact_id") for each in facts}
    found = (
        each
        for each in facts
        if each.fact["subject"] in running
        and "hours" in each.fact["data"]
        and closing.first <= each.at < closing.beyond
        and each.fact["id"] not in voided
    )
    return max(found, key=attrgetter("at"))


def _hours(product_line: str, resource: Resource, rng: Random) -> float | None:
    """Choose a day's hours: in quarters for people, in minutes for pods and operators."""
    if product_line == "talent":
        more = rng.choice((-1.5, -0.75, -0.25, 0.0, 0.0, 0.0, 0.25, 0.5))
        return round(float(resource["allocated_hours_per_week"]) / 5 + more, 2)
    if product_line == "managed_services":
        return round(rng.randrange(14 * 60, 25 * 60) / 60, 2)
    if product_line == "infrastructure":
        return round(rng.randrange(20, 190) / 60, 2)
    return None


def _holds(line: CastLine) -> Iterator[StoryFact]:
    pauses = count(1)
    for each in line.interruptions:
        if each.blocker_id is None:
            yield from _pause(line, each, next(pauses))
        else:
            yield from _block(line, each)


def _pause(line: CastLine, pause: Interruption, number: int) -> Iterator[StoryFact]:
    yield _own(
        line, pause.begin, "service_line.paused", f"pause-{number}", {"reason": pause.reason}
    )
    if pause.end is not None:
        yield _own(
            line, pause.end, "service_line.resumed", f"resume-{number}", {"reason": pause.ending}
        )


def _block(line: CastLine, block: Interruption) -> Iterator[StoryFact]:
    actor = GATEWAY if block.cause == "policy_violation" else ("user", line.lead)
    data = {"blocker_id": block.blocker_id, "cause": block.cause, "reason": block.reason}
    if block.cause != "capacity_issue":
        # Nobody is assigned yet where staff is missing.
        data["assignee"] = line.user(line.index + 5)
    if block.cause in ("approval_gap", "delivery_blocker"):
        data["due_at"] = rfc3339(block.begin + timedelta(days=2))
    id = f"opened-{block.blocker_id}"
    yield tell(
        block.begin, "execution.blocked", line.id, data, source=INCIDENTS, id=id, actor=actor
    )
    if block.end is not None:
        data = {"blocker_id": block.blocker_id, "reason": block.ending}
        id = f"resolved-{block.blocker_id}"
        yield tell(
            block.end, "execution.unblocked", line.id, data, source=INCIDENTS, id=id, actor=actor
        )


def _health(line: CastLine) -> Iterator[StoryFact]:
    """Report each signal weekly: mostly green at first, finally by the line's mood."""
    rng = line.chance("health")
    signals = words.SIGNALS[line.execution_model]
    worst = dict(zip(signals, _statuses(line.mood), strict=False))
    if (line.product_line, line.position) == SEED_TALENT:
        worst = {
            "hours_on_target": "green",
            "sla_compliance": "green",
            "capacity_utilisation": "amber",
        }
    weeks = (line.over - line.opened - timedelta(hours=21)) // timedelta(days=7)
    for week in range(weeks + 1):
        at = line.opened + timedelta(days=7 * week, hours=20)
        for index, (signal, status) in enumerate(worst.items()):
            if week < weeks - 1:
                status = rng.choice(("green", "green", "green", "green", "green", "amber"))
            meter = words.METERS[signal]
            low, high = {"green": meter.green, "amber": meter.amber, "red": meter.red}[status]
            number = round(rng.uniform(low, high), meter.decimals)
            value = number if meter.decimals else int(number)
            evidence = meter.evidence.format(value=value)
            yield tell(
                at + timedelta(seconds=2 * index),
                "health.signal_reported",
                line.id,
                {"signal": signal, "status": status, "value": value, "evidence": evidence},
                source=SIGNALS,
                id=f"{signal}-{line.number}-{week + 1:02d}",
                actor=("agent", "observability"),
            )


def _statuses(mood: str) -> tuple[str, ...]:
    """Name the last statuses of a line's signals, the most telling signal first.

    The four moods score 100, 94, 63 to 69 (amber) and 32 to 38 (red).
    """
    return {
        "well": ("green", "green", "green"),
        "watch": ("green", "amber", "green"),
        "trouble": ("red", "green", "amber"),
        "failing": ("red", "red", "amber"),
    }[mood]


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=0)
