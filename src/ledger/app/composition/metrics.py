"""The metrics of appends and facts (contract, Health)."""

from collections import Counter as Counts
from collections.abc import Sequence
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from ledger.engine.values.errors import Unavailable
from ledger.engine.values.refusals import UNKNOWN_ACTION
from ledger.engine.writer.command import Command, RefusedWrite
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Observer
from ledger.features.facts.fact_types import FACT_TYPES
from ledger.features.facts.report import ReportFact
from ledger.features.traces.commands import ReportSpan

_APPEND_SECONDS = Histogram(
    "ledger_append_seconds",
    "Seconds of an append, from its begin to its commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

_LOCK_WAIT_SECONDS = Histogram(
    "ledger_append_lock_wait_seconds",
    "Seconds until an append had the lock and its first reads, which share a round trip.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)

_GROUP_SIZE = Histogram(
    "ledger_append_group_size",
    "Commands that were decided in an append.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)

_QUEUE = Gauge("ledger_queue", "Commands that wait for their append.", multiprocess_mode="livesum")

_FACTS = Counter("ledger_facts", "Facts, by type and outcome.", ["type", "outcome"])

_OTHER = "other"
"""The type for facts of unknown types: anybody could make up a thousand types."""


class WriterMetrics(Observer):
    """Counts what a writer does. An append is one observation of each histogram."""

    def note_waiting(self, commands: int) -> None:
        _QUEUE.set(commands)

    def note_lock(self, seconds: float) -> None:
        _LOCK_WAIT_SECONDS.observe(seconds)

    def note_append(self, seconds: float, commands: int) -> None:
        _APPEND_SECONDS.observe(seconds)
        _GROUP_SIZE.observe(commands)

    def note_outcomes(self, commands: Sequence[Command], outcomes: Sequence[Outcome]) -> None:
        counts = Counts[tuple[str, str]]()
        for command, outcome in zip(commands, outcomes, strict=False):
            if isinstance(command, ReportFact):
                counts[command.fact.type, _name_of(outcome)] += 1
            elif isinstance(command, ReportSpan):
                counts.update((fact.type, _name_of(outcome)) for fact in command.facts)
            elif isinstance(command, RefusedWrite) and (kind := _type_of(command)) is not None:
                counts[kind, _name_of(outcome)] += 1
        for labels, count in counts.items():
            _counter(*labels).inc(count)


def _name_of(outcome: Outcome) -> str:
    if isinstance(outcome, Receipt):
        return "duplicate" if outcome.duplicate else "recorded"
    return "unavailable" if isinstance(outcome, Unavailable) else "refused"


def _type_of(command: RefusedWrite) -> str | None:
    """The type of a fact that was refused before any decision; None if the command was no fact."""
    about = command.about()
    if about is None:
        return _OTHER  # an item of a body that could not be read as an object
    if about.action in FACT_TYPES:
        return about.action
    is_fact = about.source is not None or about.fact_id is not None
    return _OTHER if is_fact or about.action == UNKNOWN_ACTION else None


@cache
def _counter(kind: str, outcome: str) -> Counter:
    return _FACTS.labels(kind, outcome)
