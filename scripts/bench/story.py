"""The facts that the measurements send: always the same, except for their times."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

ORGANIZATION = "ORG-26-000001"
BATCH = 1_000  # facts of daily work per batch
BUSY = 2_000  # lines that report all the time

MODELS = (
    ("talent", "capacity"),
    ("managed_services", "ongoing_sla"),
    ("ods", "timeboxed_outcome"),
    ("infrastructure", "infra_managed"),
    ("intelligence", "observability"),
    ("agent_gateway", "agent_runtime"),
)
ENGINEER = {
    "type": "talent",
    "name": "Allocated engineer",
    "role": "senior_backend_engineer",
    "allocated_hours_per_week": 40,
}
CALLER = {"type": "api", "actor_id": "USR-26-000044"}
PROMPT = {"prompt": "Summarise open tasks for project PROJ-26-004281"}
SUMMARY = {
    "summary": "14 open tasks across 3 sprints. 2 are blocked.",
    "artifact_id": "ART-26-000991",
}


def line_id(number: int) -> str:
    return f"LIN-26-{number:06d}"


@dataclass
class Story:
    """Facts about lines at work: ``lines`` take check-ins; those in ``agents`` also have runs."""

    lines: Sequence[int]
    agents: Sequence[int]
    mix: str = "mixed"
    now: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    # Far above every id that a data set's ledger has issued.
    run: Iterator[int] = field(default_factory=lambda: itertools.count(100_000_000))

    def fact(self, kind: str, subject: str | None, **data: object) -> bytes:
        """One CloudEvent with a new id. Without a subject, the ledger issues one."""
        event = {
            "specversion": "1.0",
            "id": f"bench-{next(self.serial)}",
            "source": "/bench",
            "type": kind,
            **({} if subject is None else {"subject": subject}),
            "time": self.now,
            "datacontenttype": "application/json",
            "data": data,
        }
        return json.dumps(event, separators=(",", ":")).encode()

    def beginning(self, number: int) -> list[bytes]:
        """The first facts of a line: activation, a check-in, health."""
        line, (product_line, model) = line_id(number), MODELS[number % len(MODELS)]
        activated = self.fact(
            "service_line.activated",
            line,
            organization_id=ORGANIZATION,
            workspace_id=f"WS-26-{number % 20 + 1:06d}",
            product_line=product_line,
            execution_model=model,
            project_tags=[f"PROJ-26-{number % 50 + 1:06d}"],
            resources=[{"id": f"SCR-{100_000 + number}", **ENGINEER}],
            execution_id=f"RUN-26-{number:06d}",
        )
        return [
            activated,
            self.fact("execution.checked_in", line, hours=7.5),
            self.fact("health.signal_reported", line, signal="hours_on_target", status="green"),
            self.fact("health.signal_reported", line, signal="sla_compliance", status="amber"),
        ]

    def work(self) -> Iterator[bytes]:
        """Endless facts of daily work: check-ins only, or half of them runs and health.

        Three of four check-ins come from the ``BUSY`` lines that report all the time. The fourth
        may come from any line.
        """
        busy = self.lines[:: max(1, len(self.lines) // BUSY)]
        for round_ in itertools.count(next(self.serial)):
            lines = [line_id(busy[(round_ * 31 + n) % len(busy)]) for n in range(3)]
            lines.append(line_id(self.lines[round_ * 7919 % len(self.lines)]))
            check_ins = [self.fact("execution.checked_in", at, hours=1.25) for at in lines]
            if self.mix == "check_ins":
                yield from check_ins
                continue
            run = f"RUN-26-{next(self.run)}"
            line = line_id(self.agents[round_ * 7 % len(self.agents)])
            status = ("green", "amber")[round_ % 2]
            yield check_ins[0]
            yield self.fact(
                "run.requested", run, service_line_id=line, triggered_by=CALLER, input=PROMPT
            )
            yield check_ins[1]
            yield self.fact("run.started", run, service_line_id=line)
            yield check_ins[2]
            yield self.fact("run.completed", run, output=SUMMARY, tokens_used=1840)
            yield check_ins[3]
            yield self.fact(
                "health.signal_reported", line, signal="agent_error_rate", status=status
            )


def story_of_new(lines: int) -> Story:
    """Facts about lines that begin with them (``beginning``)."""
    numbers = range(1, lines + 1)
    return Story(numbers, [n for n in numbers if MODELS[n % len(MODELS)][1] == "agent_runtime"])


def batch_of(facts: Iterable[bytes]) -> bytes:
    """The body of one batch."""
    return b"[" + b",".join(facts) + b"]"
