"""The reports of product lines in a data set: a method for each step of a line's life."""

from typing import Any

from chronicle import Chronicle, KeyedRun, Line
from population import Population
from story import CALLER, ENGINEER, PROMPT, SUMMARY

from ledger.app.settings import Settings
from ledger.engine.values.recorded import Actor
from ledger.features.lines.model import execution_events as events
from ledger.features.runs.model.run import RunRequested, RunStarted, Trigger
from ledger.features.runs.model.token_usage import Used

_PEOPLE = [Actor("user", f"USR-26-{number:06d}") for number in range(1, 41)]
_AGENT = Actor("agent", "AGT-26-000007")
_TRIGGER = Trigger(CALLER["type"], CALLER["actor_id"])  # type: ignore[arg-type]
_HOURS = (7.5, 6.25, 2.75, 0.5)
_SIGNALS = ("hours_on_target", "sla_compliance", "delivery_velocity", "capacity_utilisation")
_STATUSES = ("green", "green", "amber", "green", "red", "amber", "green")
_ERROR = {"code": "upstream_timeout", "message": "The model did not answer within 60 s."}


class Reporter:
    """Reports about the lines of a population, written into a chronicle."""

    def __init__(self, population: Population, book: Chronicle) -> None:
        self.population, self.book = population, book
        self._settings = Settings()

    def _person(self, line: Line) -> Actor:
        return _PEOPLE[line.number % len(_PEOPLE)]

    # Events of the line's own stream.

    def activated(self, line: Line) -> None:
        """The line begins, with a resource."""
        lines, number = self.population, line.number
        tags = lines.tags(number)
        resource = {"id": f"SCR-{100_000 + number}", **ENGINEER}
        data = {
            "organization_id": line.organization_id,
            "workspace_id": line.workspace_id,
            "product_line": lines.product_line(number),
            "execution_model": lines.model(number),
            "project_tags": list(tags),
            "resources": [resource],
            "name": lines.name(number),
        }
        body = events.Activated(
            execution_id=self.book.issue(),
            execution_id_origin="issued",
            product_line=lines.product_line(number),  # type: ignore[arg-type]
            execution_model=lines.model(number),  # type: ignore[arg-type]
            project_tags=tags,
            resources=(events.Resource(**resource),),  # type: ignore[arg-type]
            started_at=self.book.at,
            name=lines.name(number),
        )
        self.book.fact(line, "service_line.activated", data, body, self._person(line))

    def checked_in(self, line: Line, late: bool = False, woken: bool = False) -> None:
        """A check-in with hours; every other check-in also names the resource."""
        number = int(self.book.draw.random() * 8)
        data: dict[str, Any] = {"hours": _HOURS[number % 4]}
        if number < 4:
            data["resource_id"] = f"SCR-{100_000 + line.number}"
        body = events.CheckedIn(**data)
        line.check_in = self.book.fact(
            line,
            "execution.checked_in",
            data,
            body,
            self._person(line),
            late=late,
            woken=events.Woken() if woken else None,
        )

    def checked_in_late(self, line: Line) -> None:
        """A check-in that is reported an hour late."""
        self.checked_in(line, late=True)

    def woken(self, line: Line) -> None:
        """A check-in on an idle line, which wakes it."""
        self.checked_in(line, woken=True)

    def voided(self, line: Line) -> None:
        """The last check-in is voided."""
        found = line.check_in
        data = {"fact_id": found.fact.id, "reason": "Entered twice"}
        body = events.CheckInVoided(
            **data,
            hours=found.body.hours,
            checked_in_at=found.occurred_at,
            resource_id=found.body.resource_id,
        )
        self.book.fact(
            line,
            "execution.check_in_voided",
            data,
            body,
            self._person(line),
            causation_id=found.event_id,
        )

    def signalled(self, line: Line) -> None:
        """A health signal is reported."""
        number = int(self.book.draw.random() * 28)
        data: dict[str, Any] = {
            "signal": _SIGNALS[number % 4],
            "status": _STATUSES[number % 7],
            "value": 0.5 + number / 64,
        }
        body = events.HealthSignalReported(**data)
        self.book.fact(line, "health.signal_reported", data, body, _AGENT)

    def updated(self, line: Line) -> None:
        """The line gets other projects."""
        tags = self.population.tags(line.number, shift=7)
        body = events.Updated(project_tags=tags)
        data = {"project_tags": list(tags)}
        self.book.fact(line, "service_line.updated", data, body, self._person(line))

    def allocated(self, line: Line) -> None:
        """Another resource is allocated."""
        data: dict[str, Any] = {"id": f"SCR-{2_000_000 + line.number}", **ENGINEER}
        body = events.ResourceAllocated(resource=events.Resource(**data))
        self.book.fact(line, "resource.allocated", data, body, self._person(line))

    def released(self, line: Line) -> None:
        """The other resource is released."""
        data = {"id": f"SCR-{2_000_000 + line.number}"}
        body = events.ResourceReleased(**data)
        self.book.fact(line, "resource.released", data, body, self._person(line))

    def blocked(self, line: Line) -> None:
        cause = self.population.cause(line.number)
        data: dict[str, Any] = {"blocker_id": "BLK-1", "cause": cause, "reason": "Waits for a yes"}
        body = events.Blocked(**data)
        self.book.fact(line, "execution.blocked", data, body, self._person(line))

    def unblocked(self, line: Line) -> None:
        """The blocker is resolved."""
        data = {"blocker_id": "BLK-1"}
        body = events.Unblocked(**data)
        self.book.fact(line, "execution.unblocked", data, body, self._person(line))

    def paused(self, line: Line) -> None:
        """The service line's side pauses the line."""
        data = {"reason": "The customer asked for it"}
        body = events.Paused(hold="service_line", **data)
        self.book.fact(line, "service_line.paused", data, body, self._person(line))

    def closed(self, line: Line) -> None:
        """The line ends, and its open run with it."""
        data = {"reason": "Delivered"}
        body = events.Closed(**data)
        self.book.fact(
            line, "service_line.closed", data, body, self._person(line), cancelled=line.run
        )

    def idle(self, line: Line) -> None:
        """The sweeper finds the line idle."""
        model = self.population.model(line.number)
        self.book.idle(line, self._settings.idle_after(model))

    # Events of the line's runs.

    def requested(self, line: Line) -> None:
        self._begin_run(line, "run.requested", RunRequested)

    def started(self, line: Line) -> None:
        """The requested run starts."""
        keyed = _run_of(line)
        data = {"service_line_id": line.id}
        body = keyed.run.start(None, None, name=keyed.run.name)
        self.book.run_fact(line, keyed, "run.started", data, body, _AGENT)

    def begun(self, line: Line) -> None:
        """A run starts without a request before."""
        self._begin_run(line, "run.started", RunStarted)

    def _begin_run(
        self, line: Line, kind: str, event: type[RunRequested] | type[RunStarted]
    ) -> None:
        keyed = line.run = self.book.begin_run(line)
        sealed = keyed.seal("input", PROMPT)
        body = event(run_id_origin="issued", triggered_by=_TRIGGER, input=sealed)
        data = {"service_line_id": line.id, "triggered_by": CALLER, "input": PROMPT}
        self.book.run_fact(line, keyed, kind, data, body, _AGENT, issued=True)

    def completed(self, line: Line) -> None:
        keyed = _run_of(line)
        tokens = 500 + int(self.book.draw.random() * 4000)
        sealed = keyed.seal("output", SUMMARY)
        body = keyed.run.complete(self.book.at, sealed, Used(tokens), None)
        data = {"output": SUMMARY, "tokens_used": tokens}
        self.book.run_fact(line, keyed, "run.completed", data, body, _AGENT)
        line.run = None

    def failed(self, line: Line) -> None:
        keyed = _run_of(line)
        body = keyed.run.fail(self.book.at, keyed.seal("error", _ERROR), None, Used(120), None)
        data = {"error": _ERROR, "tokens_used": 120}
        self.book.run_fact(line, keyed, "run.failed", data, body, _AGENT)
        line.run = None

    def cancelled(self, line: Line) -> None:
        keyed = _run_of(line)
        data = {"reason": "No longer needed"}
        body = keyed.run.cancel(self.book.at, data["reason"])
        self.book.run_fact(line, keyed, "run.cancelled", data, body, self._person(line))
        line.run = None


def _run_of(line: Line) -> KeyedRun:
    """The line's present run, which must exist."""
    assert line.run is not None
    return line.run
