"""Long streams, and processes that know a stream, are behind it, or have never read it."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta, timezone
from typing import Any, cast

import pytest

from ledger.app.composition.writing import create_writer
from ledger.engine.log.append import Append
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.log.event_log import Log
from ledger.engine.log.vault import Vault
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Folded, Recorded
from ledger.engine.values.refusals import STREAM_PREFIX
from ledger.engine.writer import memory
from ledger.engine.writer.command import OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import Memory
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.lines.commands.lines import GoIdle, Pause
from ledger.records import AGGREGATES
from tests.support.fact_samples import ON_OPEN_LINES
from tests.support.facts import encode, fact
from tests.support.ledger import REPORTER, Ledger


class CountingMapper(EnvelopeMapper):
    """Counts the events of lines and runs that are read."""

    decoded = 0

    def decode(self, *columns: Any) -> Recorded:
        self.decoded += not columns[0].startswith(STREAM_PREFIX)
        return super().decode(*columns)


class ReadAggregate(OwnCommand):
    """A command that records nothing: it keeps the aggregate as the process sees it."""

    def __init__(self, stream: str) -> None:
        super().__init__(COMMAND_LINE)
        self.stream = stream
        self.found: Folded | None = None

    def streams(self) -> Iterable[str]:
        return (self.stream,)

    def decide(self, group: Group) -> Receipt:
        self.found = group.memory.find(self.stream)
        return Receipt(self.stream, (), 0)


class Process:
    """The writer of another process, whose memory is empty at first."""

    def __init__(self, log: Log, writer: Writer) -> None:
        self.writer, self.codec = writer, log.codec
        self.codec.__class__ = CountingMapper

    def report(self, *events: dict[str, Any]) -> list[Outcome]:
        return submit(self.writer, *events)

    def accept(self, *events: dict[str, Any]) -> None:
        assert [o for o in self.report(*events) if not isinstance(o, Receipt)] == []

    def aggregate(self, line: str) -> Folded:
        """Return the line as this process sees it."""
        command = ReadAggregate(line)
        assert isinstance(self.writer.execute(command), Receipt)
        assert command.found is not None
        return command.found

    @property
    def decoded(self) -> int:
        assert isinstance(self.codec, CountingMapper)
        return self.codec.decoded


def submit(writer: Writer, *events: dict[str, Any]) -> list[Outcome]:
    parsed = [envelope.from_structured(encode(event)) for event in events]
    commands = [command_of(p, REPORTER) for p in parsed if isinstance(p, envelope.Fact)]
    assert len(commands) == len(events)
    return writer.submit(commands).result()


@contextmanager
def process(ledger: Ledger) -> Iterator[Process]:
    log = Log(ledger.conninfo)
    writer = create_writer(ledger.settings, log, ledger.clock)
    writer.start()
    try:
        yield Process(log, writer)
    finally:
        writer.stop()
        log.close()


def check_ins(line: str, count: int) -> list[dict[str, Any]]:
    return [fact("execution.checked_in", line, {"hours": 1}) for _ in range(count)]


def fill(ledger: Ledger, line: str, count: int) -> None:
    """Record ``count`` check-ins in one append."""
    assert {item.outcome for item in ledger.report(*check_ins(line, count))} == {"recorded"}


def stored_events(ledger: Ledger, stream: str) -> list[Recorded]:
    rows = ledger.rows(
        "SELECT originator_id, originator_version, topic, state, notification_id "
        "FROM ledger.ledger_events WHERE originator_id = %s ORDER BY originator_version",
        stream,
    )
    return [EnvelopeMapper().decode(*row.values()) for row in rows]


def length(ledger: Ledger, stream: str) -> int:
    (row,) = ledger.rows(
        "SELECT max(originator_version) v FROM ledger.ledger_events WHERE originator_id = %s",
        stream,
    )
    return int(row["v"])


def replayed(ledger: Ledger, stream: str) -> Folded:
    """The aggregate, folded from its whole stream."""
    aggregate = AGGREGATES[stream[:3]](stream)
    for recorded in stored_events(ledger, stream):
        aggregate.apply(recorded)
    return aggregate


def snapshot_versions(ledger: Ledger) -> dict[str, int]:
    """Stream → version of every snapshot of a line or run."""
    return {
        row["stream"]: row["version"]
        for row in ledger.rows("SELECT stream, version FROM ledger.snapshot")
        if not row["stream"].startswith(STREAM_PREFIX)
    }


def assert_same(one: Folded, other: Folded) -> None:
    """Compare field by field, and as text, which distinguishes orders and types."""
    assert one == other
    assert repr(one) == repr(other)


def repacked(aggregate: Folded) -> Folded:
    """The aggregate after it was packed in memory, as an aggregate that was not used for long."""
    remembered = Memory(EnvelopeMapper(), Vault(bytes(32)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_UNPACKED", 0)
        remembered.begin(Append(cast(Any, None)), DecisionTables())
        remembered.keep(aggregate)
        remembered.end()
    found = remembered.cached(aggregate.id)
    assert found is not None
    assert found is not aggregate
    return found


class Chance:
    """Random facts about one line, which together set every field of its aggregate."""

    def __init__(self, seed: int, line: str) -> None:
        self.random, self.line = random.Random(seed), line

    def value(self, depth: int = 3) -> Any:
        leaves = [
            None,
            True,
            0,
            -1,
            2**53,
            2.0,
            0.1,
            -0.0,
            1e300,
            5e-324,
            "",
            'ü\u2028\\"',
            "é" * 9,
        ]
        if depth and self.random.random() < 0.5:
            items = [self.value(depth - 1) for _ in range(self.random.randrange(4))]
            return items if self.random.random() < 0.5 else dict(zip("zayb", items, strict=False))
        return self.random.choice(leaves)

    def fact(self, ledger: Ledger) -> dict[str, Any]:
        pick, line = self.random.choice, self.line
        zone = timezone(timedelta(minutes=pick([0, 0, 330, -480])))
        behind = timedelta(microseconds=pick([0, 1, 999_999, 10**9, 10**10]))
        time = {"time": (ledger.clock.now - behind).astimezone(zone).isoformat()}
        by = pick([{}, {"actortype": "user", "actorid": "USR-ü"}])
        name = pick("dcba")
        resource = {"id": name, "type": "t", "allocated_hours_per_week": pick([40, 40.0, 7.25])}
        named = {"name": pick(["n", None]), "role": pick(["r", None]), "status": pick(["a", "b"])}
        signal = pick(["sla_compliance", "hours_on_target", "agent_error_rate"])
        health = {"signal": signal, "status": pick(["green", "amber", "red"])}
        blocker = {"blocker_id": name}
        cause = {"cause": pick(["approval_gap", "capacity_issue"]), "reason": pick(["r", None])}
        facts = [
            ("execution.checked_in", {"hours": 1.25}),
            ("service_line.updated", {"project_tags": pick([[], ["b", "a"], ["ü"]])}),
            ("service_line.paused", {"reason": pick(["why", None])}),
            ("service_line.resumed", {}),
            ("execution.blocked", blocker | cause),
            ("execution.unblocked", blocker),
            ("resource.allocated", resource | named),
            ("resource.released", {"id": name}),
            ("health.signal_reported", health | {"value": self.value()}),
            ("health.signal_reported", health | {"evidence": self.value()}),
        ]
        names = {type for type, _ in facts}
        others = [each for each in ON_OPEN_LINES.items() if each[0] not in names]
        type, data = pick([*facts, *others])
        return fact(type, line, data, **time, **by)

    def report(self, ledger: Ledger, until: int) -> None:
        """Report batches of random size until the stream has at least ``until`` events."""
        while (version := length(ledger, self.line)) < until:
            size = self.random.choice([1, 2, 30, 120])
            events = [self.fact(ledger) for _ in range(min(size, until - version))]
            for event, item in zip(events, ledger.report(*events), strict=True):
                assert item.status != 503, (
                    f"no handler of {event['type']}, or a fold without a case"
                )
            if self.random.random() < 0.5:
                ends_at = ledger.clock.now + timedelta(seconds=self.random.choice([1, 90_000]))
                ledger.execute(Pause(self.line, REPORTER, reason="r", until=ends_at, replace=True))
            else:
                self.calm(ledger)

    def calm(self, ledger: Ledger) -> None:
        """Lift every hold and blocker, so that the line may go idle; wake it half of the time."""
        line = self.line
        ledger.report(*[fact("execution.unblocked", line, {"blocker_id": b}) for b in "abcd"])
        ledger.report(fact("service_line.resumed", line))
        ledger.resume(line)
        ledger.clock.advance(seconds=self.random.choice([60, 1_000]))
        ledger.execute(GoIdle(line))
        if self.random.random() < 0.5:
            ledger.accept(fact("execution.checked_in", line))
