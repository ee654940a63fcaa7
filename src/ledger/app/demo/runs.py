"""The runs: invocations of agents, cycles of outcome lines, and their facts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any

from ledger.app.demo import words
from ledger.app.demo.cast import CastLine
from ledger.app.demo.facts import Actor, StoryFact, rfc3339, tell
from ledger.app.demo.work import agent_id

INVOCATIONS = (1203, 760, 900, 620, 560, 470, 320, 120)
"""The number of each agent's runs, by its position among the fates."""

SOURCES = {"agent_gateway": "/agent-gateway/runs", "ods": "/ods/cycles"}

LEASE_SECONDS = 600
"""The lease of a run whose worker has died."""

LONGEST_QUEUE_MS = 9_000
LONGEST_RUN_MS = 170_000


@dataclass(frozen=True)
class CastRun:
    """One run; instants that have not come are None, `outcome` is None while the run is open."""

    line: CastLine
    requested: datetime | None
    started: datetime | None
    ended: datetime | None
    outcome: str | None
    triggered_by: dict[str, str]
    input: dict[str, Any]
    closing: dict[str, Any]
    """The data of the fact that ends the run."""
    name: str | None = None
    attempt: int | None = None
    """The attempt of that name; None for the only one."""
    remedies: str | None = None
    """The name of the failed run that this run is a part of."""
    lease_seconds: int | None = None
    corrections: tuple[tuple[datetime, dict[str, Any]], ...] = ()

    @property
    def first_at(self) -> datetime:
        first = self.requested or self.started
        assert first is not None
        return first


def runs_of(line: CastLine) -> Iterator[CastRun]:
    """Make a line's runs; the four continuous models have none."""
    if line.product_line == "agent_gateway":
        yield from _with_tokens(line, _retried(line, _invocations(line)))
    elif line.product_line == "ods":
        yield from _cycles(line)


def run_facts(run: CastRun, run_id: str) -> Iterator[StoryFact]:
    source = SOURCES[run.line.product_line]
    cause: dict[str, Any] = {"triggered_by": run.triggered_by, "input": run.input}
    cause |= {"external_id": run.name, "attempt": run.attempt, "parent_external_id": run.remedies}
    opening = {"service_line_id": run.line.id, **cause}
    worker = _worker(run.line)
    trace = sha256(run_id.encode()).hexdigest() if worker[0] == "agent" else None

    def say(
        at: datetime, verb: str, data: dict[str, Any], actor: Actor, suffix: str = ""
    ) -> StoryFact:
        id = f"{run_id}-{verb}{suffix}"
        item = tell(at, f"run.{verb}", run_id, data, source=source, id=id, actor=actor)
        if trace is not None:
            item.fact["traceparent"] = f"00-{trace[:32]}-{trace[32:48]}-01"
        return item

    if run.requested is not None:
        yield say(run.requested, "requested", opening, _requester(run))
    if run.started is not None:
        is_requested = run.requested is not None
        start = {"service_line_id": run.line.id} if is_requested else opening
        yield say(run.started, "started", start | {"lease_seconds": run.lease_seconds}, worker)
    if run.ended is not None and run.outcome is not None:
        actor = _requester(run) if run.outcome == "cancelled" else worker
        yield say(run.ended, run.outcome, run.closing, actor)
    for number, (at, used) in enumerate(run.corrections, 1):
        yield say(at, "usage_corrected", used, ("user", run.line.lead), f"-{number}")


def _worker(line: CastLine) -> Actor:
    return (
        ("agent", agent_id(line)) if line.product_line == "agent_gateway" else ("user", line.lead)
    )


def _requester(run: CastRun) -> Actor:
    """Name the requester of the run. A key of the caller's own is no actor of the ledger's."""
    kinds = {"user": "user", "agent": "agent", "schedule": "agent", "system": "agent"}
    kind = kinds.get(run.triggered_by["type"])
    return _worker(run.line) if kind is None else (kind, run.triggered_by["actor_id"])


# Agents: many short runs per day, most of them in working hours.


def _invocations(line: CastLine) -> Iterator[CastRun]:
    """Let an agent run as often as `INVOCATIONS` says, up to its quiet moment or the present."""
    rng = line.chance("runs")
    special = [
        *_during_holds(line, rng),
        *(_right_now(line, rng) if line.fate == "running" else ()),
    ]
    yield from special
    last = line.quiet - timedelta(milliseconds=LONGEST_RUN_MS + LONGEST_QUEUE_MS)
    for at in _moments(line, rng, INVOCATIONS[line.position] - len(special), last):
        wait = rng.randrange(120, LONGEST_QUEUE_MS) if rng.random() < 0.22 else None
        yield _invocation(line, rng, at, wait)


def _moments(line: CastLine, rng: Random, count: int, last: datetime) -> Iterator[datetime]:
    """Draw moments at which the line was free, dense by day and thin by night and weekend."""
    longest_wait = timedelta(milliseconds=LONGEST_QUEUE_MS)
    span = (last - line.opened) // timedelta(milliseconds=1)
    drawn = 0
    while drawn < count:
        at = line.opened + timedelta(milliseconds=rng.randrange(60_000, span))
        pace = 1.0 if 7 <= at.hour < 18 else 0.3
        if rng.random() > (pace if at.weekday() < 5 else pace * 0.35):
            continue
        # A hold lasts hours and a queue seconds, so only the queue's two ends are checked.
        if not line.held(at) and not line.held(at + longest_wait):
            drawn += 1
            yield at


def _invocation(
    line: CastLine, rng: Random, at: datetime, wait: int | None, *, certain: bool = False
) -> CastRun:
    """Make one invocation that ended; `wait` is its time in the queue, None without a queue."""
    agent = words.AGENTS[line.position]
    lasted = min(max(int(agent.base_ms * rng.lognormvariate(0, 0.55)), 180), LONGEST_RUN_MS)
    triggered_by, ask, answer = _ask(line, rng)
    fate = 1.0 if certain else rng.random()
    started: datetime | None = at + timedelta(milliseconds=wait or 0)
    tokens = lasted * rng.randrange(45, 95) // 100 + 90
    closing: dict[str, Any] = {"output": answer, "tokens_used": tokens, "duration_ms": lasted}
    outcome = "completed"
    if fate < agent.failing:
        code, message = rng.choice(words.ERRORS)
        outcome = "failed"
        closing = {
            "error": {"code": code, "message": message},
            "tokens_used": tokens // 3,
            "duration_ms": lasted,
        }
    elif fate < agent.failing + 0.02:
        outcome = "cancelled"
        closing = {"reason": rng.choice(words.CANCELLATIONS)}
        if wait is not None:
            started = None
    return CastRun(
        line=line,
        requested=None if wait is None else at,
        started=started,
        ended=at + timedelta(milliseconds=(wait or 0) + lasted),
        outcome=outcome,
        triggered_by=triggered_by,
        input=ask,
        closing=closing,
    )


def _open(
    line: CastLine,
    rng: Random,
    requested: datetime | None,
    started: datetime | None,
    lease_seconds: int | None = None,
) -> CastRun:
    triggered_by, ask, _ = _ask(line, rng)
    return CastRun(
        line, requested, started, None, None, triggered_by, ask, {}, lease_seconds=lease_seconds
    )


def _ask(line: CastLine, rng: Random) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Choose the requester, the prompt, and the answer that would come."""
    kind = rng.choices(("api", "schedule", "user", "agent", "system"), (40, 24, 18, 13, 5))[0]
    actor = {
        "api": f"key_{line.year}_{41 + line.position:05d}",
        "schedule": "schedule-hourly",
        "user": line.user(rng.randrange(23)),
        "agent": f"AGT-{line.year}-{31 + line.position:06d}",
        "system": "retry-controller",
    }[kind]
    ask, answer = rng.choice(words.AGENTS[line.position].asks)
    blanks = {
        "project": line.project_tags[0] if line.project_tags else "the intranet",
        "task": f"TSK-{line.year}-{rng.randrange(2_000, 9_000):06d}",
        "a": rng.randrange(7, 40),
        "b": rng.randrange(2, 7),
        "c": rng.randrange(0, 6),
    }
    output = {
        "summary": answer.format(**blanks),
        "artifact_id": f"ART-{line.year}-{rng.randrange(1_000, 90_000):06d}",
    }
    return {"type": kind, "actor_id": actor}, {"prompt": ask.format(**blanks)}, output


def _during_holds(line: CastLine, rng: Random) -> Iterator[CastRun]:
    """Let people ask while the agent is held: it answers after the hold, or has not answered."""
    for each in line.interruptions:
        if each.end is None:
            room = (line.over - each.begin) // timedelta(seconds=1)
            yield _open(line, rng, each.begin + timedelta(seconds=rng.randrange(30, room)), None)
            continue
        paused_at = each.end - timedelta(minutes=rng.randrange(5, 90))
        freed = each.end + timedelta(seconds=rng.randrange(2, 40))
        yield _invocation(
            line, rng, paused_at, (freed - paused_at) // timedelta(milliseconds=1), certain=True
        )


def _right_now(line: CastLine, rng: Random) -> Iterator[CastRun]:
    """Show a running agent at work: some runs just ended, some in progress, one waiting.

    The worker of another run has died: the run fails by its lease.
    """
    for minutes in (12, 9, 7, 5):
        at = line.now - timedelta(minutes=minutes, milliseconds=rng.randrange(50_000))
        yield _invocation(line, rng, at, None, certain=True)
    for _ in range(1 + line.position % 2):
        yield _open(
            line, rng, None, line.now - timedelta(milliseconds=rng.randrange(9_000, 80_000))
        )
    paused_at = line.now - timedelta(milliseconds=rng.randrange(6_000, 20_000))
    yield _open(line, rng, paused_at, None)
    if line.position == 0:
        yield _open(
            line, line.chance("lease"), None, line.now - timedelta(minutes=41), LEASE_SECONDS
        )


def _retried(line: CastLine, runs: Iterable[CastRun]) -> Iterator[CastRun]:
    """Let an agent try a third of its failed runs again, under the names of their tasks."""
    rng = line.chance("retries")
    for number, run in enumerate(runs):
        if run.outcome != "failed" or run.ended is None or rng.random() > 0.35:
            yield run
            continue
        name, at = f"{line.id} task {number}", run.ended + timedelta(seconds=rng.randrange(4, 90))
        yield replace(run, name=name)
        again = _invocation(line, rng, at, None, certain=True)
        if again.ended is not None and again.ended < line.quiet and not line.held(at):
            yield replace(
                again, triggered_by=run.triggered_by, input=run.input, name=name, attempt=2
            )


def _with_tokens(line: CastLine, runs: Iterable[CastRun]) -> Iterator[CastRun]:
    """Let runs name the models of their tokens, as most gateways do; correct some days later."""
    rng = line.chance("tokens")
    for run in runs:
        tokens = run.closing.get("tokens_used")
        if run.outcome == "cancelled" and run.started and rng.random() < 0.6:
            tokens = rng.randrange(60, 900)
        if tokens is None or run.ended is None:
            yield run
            continue
        models = _models(line, rng)
        closing = {k: v for k, v in run.closing.items() if k != "tokens_used"}
        closing |= _used(rng, tokens, models)
        at, corrections = run.ended, list[tuple[datetime, dict[str, Any]]]()
        for chance in (0.02, 0.3):
            at += timedelta(seconds=rng.randrange(20 * 3600, 50 * 3600))
            if rng.random() > chance or at >= line.over:
                break
            used = _used(rng, tokens * rng.randrange(80, 115) // 100, models)
            corrections.append((at, used | {"reason": rng.choice(words.CORRECTIONS)}))
        yield replace(run, closing=closing, corrections=tuple(corrections))


def _models(line: CastLine, rng: Random) -> tuple[str, ...]:
    """The models that a run used; none if its gateway does not name them."""
    main, other = (words.MODELS[(line.position + n) % len(words.MODELS)] for n in (0, 1))
    return rng.choices(((main,), (main, other), ()), (55, 30, 15))[0]


def _used(rng: Random, tokens: int, models: tuple[str, ...]) -> dict[str, Any]:
    """Split a run's tokens among its models: the first one used the most."""
    if not models:
        return {"tokens_used": tokens}
    main, *others = models
    few = tokens // 5
    usage = [_of_model(rng, tokens - few * len(others), main)]
    return {"token_usage": usage + [_of_model(rng, few, model) for model in others]}


def _of_model(rng: Random, tokens: int, model: str) -> dict[str, Any]:
    output = tokens * rng.randrange(8, 35) // 100
    read, written = (tokens - output) * rng.randrange(70) // 100, (tokens - output) // 10
    return {
        "model": model,
        "input": tokens - output,
        "output": output,
        "cache_read": read,
        "cache_write": written,
        "reasoning": output * rng.randrange(50) // 100,
    }


# Outcome lines: one cycle after the other, each some days long.


def _cycles(line: CastLine) -> Iterator[CastRun]:
    """Let an outcome line go from cycle to cycle until its quiet moment.

    A cycle starts when the line is free. The last cycle is open on a line that runs or is held, has
    ended on an idle line, and is requested but never started on a closed line.
    """
    rng = line.chance("cycles")
    requested = line.opened + timedelta(minutes=rng.randrange(20, 90))
    number, failed = 0, None
    while True:
        started = _free(line, requested + timedelta(minutes=rng.randrange(60, 900)))
        ended = started + timedelta(minutes=rng.randrange(4 * 1440, 8 * 1440))
        if ended >= line.quiet:
            break
        cycle = _cycle(line, rng, number, requested, started, ended, failed)
        yield cycle
        failed = cycle.name if cycle.outcome == "failed" else None
        requested = ended + timedelta(minutes=rng.randrange(30, 600))
        number += 1
    if line.fate == "idle":
        if started < line.quiet:
            yield _cycle(line, rng, number, requested, started, line.quiet, failed)
    elif line.fate == "closed":
        if requested < line.quiet:
            yield _cycle(line, rng, number, requested, None, None, failed)
    elif started < line.quiet:
        yield _cycle(line, rng, number, requested, started, None, failed)
    elif requested < line.over:
        yield _cycle(line, rng, number, requested, None, None, failed)


def _free(line: CastLine, at: datetime) -> datetime:
    for each in line.interruptions:
        if each.covers(at) and each.end is not None:
            at = each.end + timedelta(hours=1)
    return at


def _cycle(
    line: CastLine,
    rng: Random,
    number: int,
    requested: datetime,
    started: datetime | None,
    ended: datetime | None,
    failed: str | None,
) -> CastRun:
    """Make one cycle; now and then its deliverables are rejected.

    The cycle after a failed one remedies it.
    """
    goal, deliverables = words.CYCLES[(line.position + number) % len(words.CYCLES)]
    planned = (started or requested) + timedelta(days=7)
    outcome = None
    closing: dict[str, Any] = {}
    if ended is not None and rng.random() < 0.14:
        outcome = "failed"
        message = f"The client rejected the {rng.choice(deliverables)}; a remediation cycle follows"
        closing = {"error": {"code": "deliverable_rejected", "message": message}}
    elif ended is not None:
        outcome = "completed"
        closing = {"output": {"delivered": list(deliverables), "accepted_by": line.lead}}
    return CastRun(
        line=line,
        requested=requested,
        started=started,
        ended=ended,
        outcome=outcome,
        triggered_by={
            "type": "user" if number else "system",
            "actor_id": line.lead if number else "scoping",
        },
        input={
            "goal": goal,
            "cycle": number + 1,
            "deliverables": list(deliverables),
            "planned_end": rfc3339(planned),
        },
        closing=closing,
        name=f"{line.id} cycle {number + 1}",
        remedies=failed,
    )
