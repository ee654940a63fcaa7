"""The log of a data set while it is written: envelopes, fact identities, decision rows, keys.

The ledger's own code makes all of it. Events are ``Recorded`` and encoded by its mapper, its fold
makes decision rows, and its vault encrypts payloads. This module only does the writer's work under
the append lock: assign positions and instants, and store identities.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from story import line_id

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.log.tables import LineActivityRow
from ledger.engine.log.vault import RunKey, Vault, content_digest
from ledger.engine.values.json_gate import canonical
from ledger.engine.values.principal import COMMAND_LINE, SWEEPER
from ledger.engine.values.recorded import Actor, Event, FactIdentity, Recorded
from ledger.engine.values.values import format_id, format_instant
from ledger.features.lines.model.execution_events import WentIdle
from ledger.features.runs.model.run import Run

BEGINS = datetime(2026, 3, 2, 6, tzinfo=UTC)
SPAN = timedelta(weeks=6)
SOURCE = "/bench-data"
_DELAY = timedelta(milliseconds=350)  # from an occurrence to its recording
_LATE = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_NULL = "\\N"

_encode = msgspec.json.Encoder().encode

# The filled tables, each with the columns of its rows.
TABLES = {
    "ledger_events": "originator_id originator_version topic state notification_id recorded_at",
    "identity": "digest position",
    "run_key": "run_id organization_id wrapped",
    "execution_record": "execution_id line_id organization_id",
    "line_activity": "line_id last_activity_at open_runs",
    "open_run": "line_id run_id version started_at",
    "id_counter": "prefix year last",
}


class Line:
    """The state of a line while a part of its life is written."""

    __slots__ = ("check_in", "id", "number", "organization_id", "run", "version", "workspace_id")

    def __init__(self, number: int, organization_id: str, workspace_id: str, version: int) -> None:
        self.number = number
        self.id = line_id(number)
        self.organization_id = organization_id
        self.workspace_id = workspace_id
        self.version = version
        self.run: KeyedRun | None = None
        self.check_in: Any = None  # the Recorded of its last check-in


class KeyedRun:
    """A run in progress, and its key."""

    __slots__ = ("key", "run")

    def __init__(self, run_id: str, key: RunKey) -> None:
        self.run = Run(run_id)
        self.key = key

    def seal(self, field: str, value: Any) -> bytes:
        """Encrypt a payload of the run's next event."""
        return self.key.seal(field, self.run.version + 1, _encode(value))


class Chronicle:
    """Takes facts in log order, and stores their rows until the caller takes them."""

    def __init__(self, vault: Vault, events: int, seed: int, span: timedelta) -> None:
        self.draw = random.Random(seed)
        self.position = 0
        self.rows: dict[str, list[str]] = {table: [] for table in TABLES}
        self.decisions = DecisionTables()
        self._vault = vault
        self._encode = EnvelopeMapper().to_stored_event
        # Instants rise with the position, unevenly: each is drawn within its step.
        self._step = span // _MICROSECOND // max(1, events)
        self._recorded_at = BEGINS

    @property
    def at(self) -> datetime:
        """The time at which the next event happens, a moment before its recording."""
        return self._recorded_at - _DELAY

    def issue(self) -> str:
        """The next RUN id that the ledger issues."""
        key = ("RUN", self._recorded_at.year)
        return format_id(*key, self.decisions.counters.get(key, 0) + 1)

    def begin_run(self, line: Line) -> KeyedRun:
        """A new run, with an id and a key from the ledger."""
        run_id = self.issue()
        key, wrapped = self._vault.create(line.organization_id, run_id)
        self.rows["run_key"].append(f"{run_id}\t{line.organization_id}\t\\\\x{wrapped.hex()}\n")
        return KeyedRun(run_id, key)

    def fact(
        self,
        line: Line,
        kind: str,
        data: dict[str, Any],
        body: Event,
        actor: Actor,
        *,
        late: bool = False,
        woken: Event | None = None,
        cancelled: KeyedRun | None = None,
        causation_id: str | None = None,
    ) -> Recorded:
        """Record a fact about a line, and before it the event that the fact causes.

        The caused event wakes the line, or cancels a run that is open when its line closes. A void
        names the event of its check-in (``causation_id``).
        """
        at = self.at - _LATE if late else self.at
        cause = self._event_id(self.position + 2)
        if woken is not None:
            self._own(line, woken, at, actor, causation_id=cause)
        if cancelled is not None:
            end = cancelled.run.cancel(at, None, by_closing=True)
            self._of_run(line, cancelled, end, at, actor, causation_id=cause)
        content = canonical([kind, line.id, format_instant(at), data, actor.type, actor.id])
        identity = FactIdentity(SOURCE, self._fact_id(), content_digest(content))
        return self._own(line, body, at, actor, fact=identity, causation_id=causation_id)

    def idle(self, line: Line, threshold: timedelta) -> None:
        """Record that a line has been quiet for too long, as the sweeper does."""
        due = self.decisions.activity[line.id].last_activity_at + threshold
        if due > self._recorded_at:
            raise AssertionError(f"{line.id} is not idle yet at position {self.position + 1}")
        body = WentIdle(threshold_seconds=int(threshold.total_seconds()))
        self._own(line, body, due, SWEEPER.actor, reported_by=SWEEPER.id)

    def run_fact(
        self,
        line: Line,
        keyed: KeyedRun,
        kind: str,
        data: dict[str, Any],
        body: Event,
        actor: Actor,
        *,
        issued: bool = False,
    ) -> None:
        """Record a fact about a run. If the ledger issued the run's id, the fact has no subject."""
        subject = None if issued else keyed.run.id
        content = canonical([kind, subject, format_instant(self.at), data, actor.type, actor.id])
        identity = FactIdentity(SOURCE, self._fact_id(), keyed.key.digest(content))
        self._of_run(line, keyed, body, self.at, actor, fact=identity)

    # Between parts of a life.

    def resume(self, line: Line, at: datetime, open_runs: int) -> None:
        """Continue with a line, given its last activity and open runs."""
        self.decisions.activity[line.id] = LineActivityRow(line.id, at, open_runs)

    def leave(self, line: Line) -> LineActivityRow:
        """Stop with a line for now. The caller must store the returned activity."""
        return self.decisions.activity.pop(line.id)

    def settle(self) -> None:
        """Turn the collected entries of the decision tables into rows."""
        decisions, rows = self.decisions, self.rows
        for digest, position in decisions.pop_identities():
            rows["identity"].append(f"{digest.hex()}\t{position}\n")
        for record in decisions.new_records:
            rows["execution_record"].append("\t".join(decisions.records[record]) + "\n")
        for gathered in (decisions.firsts, decisions.touched, decisions.ended):
            gathered.clear()
        for gathered in (decisions.new_records, decisions.records):
            gathered.clear()

    def activity_row(self, line_id: str, activity: LineActivityRow) -> None:
        self.rows["line_activity"].append(
            f"{line_id}\t{activity.last_activity_at}\t{activity.open_runs}\n"
        )

    def finish(self) -> None:
        """Write the rows of the final state: counters and open runs."""
        self.settle()
        for (prefix, year), last in self.decisions.counters.items():
            self.rows["id_counter"].append(f"{prefix}\t{year}\t{last}\n")
        for run_id, row in self.decisions.opened.items():
            started = row.started_at or _NULL
            self.rows["open_run"].append(f"{row.line_id}\t{run_id}\t{row.version}\t{started}\n")

    # One event.

    def _own(self, line: Line, body: Event, at: datetime, actor: Actor, **about: Any) -> Recorded:
        """Record an event of the line's own stream."""
        line.version += 1
        return self._record(line, line.id, line.version, body, at, actor, **about)

    def _of_run(
        self, line: Line, keyed: KeyedRun, body: Event, at: datetime, actor: Actor, **about: Any
    ) -> Recorded:
        """Record an event of a run's stream."""
        run = keyed.run
        recorded = self._record(line, run.id, run.version + 1, body, at, actor, **about)
        run.apply(recorded)
        return recorded

    def _record(
        self,
        line: Line,
        stream: str,
        version: int,
        body: Event,
        at: datetime,
        actor: Actor,
        *,
        fact: FactIdentity | None = None,
        causation_id: str | None = None,
        reported_by: str = COMMAND_LINE.id,
    ) -> Recorded:
        self.position += 1
        recorded = Recorded(
            originator_id=stream,
            originator_version=version,
            position=self.position,
            occurred_at=at,
            recorded_at=self._recorded_at,
            actor=actor,
            reported_by=reported_by,
            organization_id=line.organization_id,
            workspace_id=line.workspace_id,
            service_line_id=line.id,
            fact=fact,
            request_id=None,
            causation_id=causation_id,
            nonce=self.draw.randbytes(16),
            body=body,
        )
        self.decisions.note(recorded)
        state = self._encode(recorded).state.hex()
        self.rows["ledger_events"].append(
            f"{stream}\t{version}\t{body.TOPIC}\t\\\\x{state}\t{self.position}\t{self._recorded_at}\n"
        )
        drawn = self.position * self._step + int(self.draw.random() * self._step)
        self._recorded_at = BEGINS + timedelta(microseconds=drawn)
        return recorded

    def _event_id(self, position: int) -> str:
        return format_id("EVT", self._recorded_at.year, position)

    def _fact_id(self) -> str:
        """A fact id, as random as the ids of product lines."""
        return self.draw.randbytes(16).hex()
