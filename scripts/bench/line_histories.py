"""The lives of a data set's lines, in three parts, and the line with the many runs.

A line's fate and model determine its steps. Some hundred lines at a time take turns, one step each.
One part of all lives comes before the next part. So a line's events are far apart in the log, as if
all lines reported at once.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from chronicle import Chronicle, Line
from population import Population
from reports import Reporter

AT_ONCE = 500  # lines that take turns
OPEN_RUNS = 20  # of the big line, at any time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Step = Callable[[Reporter, Line], None]
Script = tuple[Step, ...]

_BEGINNING: Script = (Reporter.activated, Reporter.checked_in, Reporter.signalled)
_WORK: Script = (Reporter.checked_in, Reporter.signalled)
_RUN: Script = (Reporter.requested, Reporter.started, Reporter.completed)
_SHORT_RUN: Script = (Reporter.begun, Reporter.completed)

# By fate: the middle and the end of a line's life, without runs and with them.
_LIVES: dict[str, tuple[tuple[Script, Script], tuple[Script, Script]]] = {
    "running": (
        ((*_WORK, Reporter.updated), (Reporter.checked_in_late, Reporter.allocated)),
        (_RUN, _SHORT_RUN),
    ),
    "idle": (
        (_WORK, (Reporter.idle,)),
        (_SHORT_RUN, (Reporter.idle,)),
    ),
    "blocked": (
        (_WORK, (Reporter.blocked,)),
        (_SHORT_RUN, (Reporter.blocked,)),
    ),
    "paused": (
        (_WORK, (Reporter.paused,)),
        ((*_SHORT_RUN[:1], Reporter.failed), (Reporter.paused,)),
    ),
    "closed": (
        (_WORK, (Reporter.closed,)),
        (_SHORT_RUN, (Reporter.begun, Reporter.closed)),
    ),
    "woken": (
        ((Reporter.idle,), (Reporter.woken, Reporter.signalled)),
        ((Reporter.idle,), (Reporter.woken, *_SHORT_RUN)),
    ),
    "recovered": (
        (
            (Reporter.blocked, Reporter.unblocked, Reporter.checked_in, Reporter.voided),
            (Reporter.allocated, Reporter.released),
        ),
        (
            (Reporter.blocked, Reporter.unblocked),
            (Reporter.requested, Reporter.cancelled),
        ),
    ),
    "open": (
        (_WORK, (Reporter.checked_in,)),
        (_SHORT_RUN, (Reporter.requested, Reporter.started)),
    ),
}
_TWO_EVENTS = (Reporter.woken,)


def script(part: int, fate: str, has_runs: bool) -> Script:
    """The steps of one part, 0 to 2, of a life."""
    return _BEGINNING if part == 0 else _LIVES[fate][has_runs][part - 1]


def _length(fate: str, has_runs: bool) -> int:
    """The events of a whole life."""
    steps = [step for part in range(3) for step in script(part, fate, has_runs)]
    closes_run = fate == "closed" and has_runs
    return len(steps) + sum(step in _TWO_EVENTS for step in steps) + closes_run


class Teller:
    """Writes a population's lives into a chronicle, with the requested number of events."""

    def __init__(self, population: Population, book: Chronicle, events: int) -> None:
        self._population, self._book = population, book
        self._reporter = Reporter(population, book)
        every = population.lines + 1
        # The state of each line between the parts of its life.
        self._versions = array("H", bytes(2 * every))
        self._active = array("q", bytes(8 * every))
        self._open = bytearray(every)
        self._runs = events // 10
        self._spare = self._count_spare(events)
        of_big = _events_of_runs(self._runs)
        self._pace = of_big / max(1, events - of_big)
        self._due = 0.0

    def _count_spare(self, events: int) -> int:
        """The number of check-ins besides the scripts. Raises ValueError if it is negative."""
        lines = self._population
        others = (n for n in range(1, lines.lines + 1) if n != lines.big)
        scripted = sum(_length(lines.fate(n), lines.has_runs(n)) for n in others)
        scripted += _events_of_runs(self._runs)
        if scripted > events:
            raise ValueError(f"{lines.lines:,} lines have at least {scripted:,} events")
        return events - scripted

    def tell(self) -> Iterator[None]:
        """Write all lives, with pauses in which the caller can take the rows."""
        big = self._tell_big()
        next(big)
        for part in range(3):
            numbers = (n for n in self._population.order() if n != self._population.big)
            while some := list(islice(numbers, AT_ONCE)):
                self._tell_part(part, some, big)
                self._book.settle()
                yield
        for _ in big:
            pass
        self._book.finish()
        yield

    def _tell_part(self, part: int, numbers: list[int], big: Iterator[None]) -> None:
        """Write a part of these lines' lives, one step each in turn, with the big line's events."""
        living = [(line := self._resume(part, n), self._script(part, line)) for n in numbers]
        while living:
            for line, steps in living:
                steps[0](self._reporter, line)
                self._due += self._pace
                while self._due >= 1:
                    self._due -= 1
                    next(big, None)
            for line, steps in living:
                if len(steps) == 1:
                    self._leave(part, line)
            living = [(line, steps[1:]) for line, steps in living if len(steps) > 1]

    def _script(self, part: int, line: Line) -> Script:
        lines = self._population
        steps = script(part, lines.fate(line.number), lines.has_runs(line.number))
        if part == 0:
            # Spare check-ins are spread evenly over the lines. The first lines have one more.
            share, more = divmod(self._spare, lines.lines - 1)
            share += line.number - (line.number > lines.big) <= more
            steps += (Reporter.checked_in,) * share
        return steps

    def _resume(self, part: int, number: int) -> Line:
        lines = self._population
        tenant = lines.organization(number), lines.workspace(number)
        line = Line(number, *tenant, self._versions[number])
        if part:
            at = _EPOCH + timedelta(microseconds=self._active[number])
            self._book.resume(line, at, self._open[number])
        return line

    def _leave(self, part: int, line: Line) -> None:
        activity = self._book.leave(line)
        self._versions[line.number] = line.version
        self._active[line.number] = (activity.last_activity_at - _EPOCH) // _MICROSECOND
        self._open[line.number] = activity.open_runs
        if part == 2:
            self._book.activity_row(line.id, activity)

    def _tell_big(self) -> Iterator[None]:
        """Write the line with the many runs, with a pause after each event."""
        number, reporter = self._population.big, self._reporter
        line = self._resume(0, number)
        reporter.activated(line)
        yield
        under_way = deque()
        for run in range(self._runs):
            for step in (reporter.begun,) if run % 2 else (reporter.requested, reporter.started):
                step(line)
                yield
            under_way.append(line.run)
            if len(under_way) > OPEN_RUNS:
                line.run = under_way.popleft()
                (reporter.failed if run % 17 == 0 else reporter.completed)(line)
                yield
        self._leave(2, line)


def _events_of_runs(runs: int) -> int:
    """The number of the big line's events if it has ``runs`` runs."""
    return 1 + runs + (runs + 1) // 2 + max(0, runs - OPEN_RUNS)
