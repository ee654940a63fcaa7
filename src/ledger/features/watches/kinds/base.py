"""Condition: the base of all kinds of watches, with the values that a kind takes and gives.

A kind is a file of this folder, and a row of the table in ``__init__.py``: the recipe is in
``docs/extending.md``. A kind does no I/O. The loop's rounds and the previews decide by its
functions; requests, OpenAPI and the page's form are made of its fields and its data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec.structs import fields

from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import EARLIEST, RunStatus, State
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model.execution import Began, Execution

W = TypeVar("W", bound=str)

HOUR, DAY = 3_600, 86_400

SubjectType = Literal["service_line", "blocker", "run", "source"]

About = Literal["line", "open_runs", "failures", "sums", "source"]
"""The things that a condition depends on. ``line``: the line's state, blockers, health and
activity. ``open_runs``: its runs, read for the kinds that need them. ``failures``, ``sums``:
numbers that the views alone have, so a command waits until these have all events of the line.
``source``: no line. Sources and sums have loops and limits of their own."""


class AlertSubject(msgspec.Struct, frozen=True):
    """The line, blocker, run or source that an alert is about."""

    type: SubjectType
    id: str


# Values that a kind takes.


class OpenRun(NamedTuple):
    """A pending or running run."""

    run_id: str
    external_id: str | None
    status: RunStatus
    since: datetime
    """When it was requested, or started once it is running."""
    position: int


class LineNow(NamedTuple):
    """A line as it is known at an instant, as far as watches depend on it."""

    execution: Execution
    last_activity_at: datetime
    open_runs: int
    runs: Sequence[OpenRun] = ()
    """The open runs, where a condition is about them."""
    failures: Sequence[Began] = ()
    """The first failures since the last completed run, in order of recording."""
    over: Mapping["Condition", "Episode"] = MappingProxyType({})
    """The conditions by which the line has used too much in the present period."""

    @property
    def name(self) -> str:
        return self.execution.name or self.execution.id


NO_LINE = LineNow(Execution(""), EARLIEST, 0)
"""The line of an alert about a source."""


class LineChange(NamedTuple):
    """A change of a line: a row of ``recorded``, or of the past."""

    opened: int
    """The position of the event."""
    since: datetime
    """The effective time of the change."""
    state: State | None = None
    health_score: int | None = None
    event: Recorded | None = None


Changes = Sequence[LineChange]

Conditions = Sequence[tuple[Any, int]]
"""Conditions of a kind, each with the ``for_seconds`` of its watch."""

# Values that a kind gives.


class Episode(NamedTuple):
    """A condition that holds for a subject."""

    subject: AlertSubject
    since: datetime
    began_by: str
    """The begin of the episode: no other episode of the subject has the same."""
    position: int | None
    """The position of the event that began it; None: no single event did."""


Episodes = Sequence[Episode]


class Transition(NamedTuple):
    """From here on the condition holds, or no longer does."""

    at: datetime
    holds: bool
    subject: AlertSubject | None = None
    """None for the line and all of its subjects."""
    change: LineChange | None = None
    """The change by which the condition began to hold, in a preview of the past."""


Transitions = Iterator[Transition]


class Checks:
    """Checks of a field as people send it, as an annotation. Stored values are checked already.

    ``checks`` return the value, or raise ValueError; the ``field`` are arguments of pydantic's
    ``Field``; ``characters`` is a pattern that all characters fit.
    """

    def __init__(self, *checks: Callable[[Any], Any], characters: str = "", **field: Any) -> None:
        self.checks, self.characters, self.field = checks, characters, field


class Blank(NamedTuple):
    """The blank of a field in the page's sentence, as an annotation."""

    label: str
    default: Any
    """The value that the form suggests, as the API takes it."""
    options: Mapping[str, str] = MappingProxyType({})
    """Values and the page's words for them; empty: the value is typed."""
    hint: str = ""
    offers: str = ""
    """The type of the values that the blank offers while a person types; empty: it offers none."""


class Starter(NamedTuple):
    """A watch that the form suggests, and that an organization without any is offered."""

    name: str
    severity: str = "warning"
    keep_seconds: int = 0
    lines: Mapping[str, Sequence[str]] = MappingProxyType({})


class Past(NamedTuple):
    """SQL conditions by which a preview reads the past of lines (``reads/watched.py``)."""

    counts: str
    """True if the change ``i`` matters."""
    is_over: str
    """True if the condition held for nothing after the change ``b``."""
    is_told: str
    """True if the event of a found change is read."""


class Condition(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """The condition of a watch. Its fields are what people send and what events keep.

    Each kind gives ``choice``, ``sentence``, ``at_once``, ``text`` and, unless it is about sources,
    ``may_hold``, ``earliest`` and ``episodes``. The rest has defaults.
    """

    about: ClassVar[About] = "line"
    choice: ClassVar[str]
    """The kind as people choose it."""
    sentence: ClassVar[str]
    """The form: ``{lines}``, ``{time}`` and the fields' names stand for what is filled in."""
    at_once: ClassVar[str]
    """The sentence of a watch without a time."""
    seconds: ClassVar[int] = 0
    """The time that the form suggests."""
    as_sent: ClassVar[str] = ""
    """The description in requests, if it differs from that in answers, the docstring."""
    words: ClassVar[tuple[tuple[str, tuple[str, ...]], ...]] = ()
    """The enumerations of fields that OpenAPI calls by a name of their own, with these names."""
    starter: ClassVar[Starter | None] = None
    least_seconds: ClassVar[int] = 0
    keeps: ClassVar[bool] = False
    """True if an alert may be kept open for a while after its condition has ended."""
    may_hold: ClassVar[str] = ""
    """SQL: a condition on ``ledger.execution AS l`` that all lines with an episode fulfil."""
    earliest: ClassVar[str] = ""
    """SQL: (line id, instant) rows of lines of ``page`` (``loops/store.py``): when something may
    be due there at the earliest. ``{least}`` is the shortest ``for_seconds`` of some watches."""
    recorded: ClassVar[str] = """
        SELECT i.opened, i.since, i.state, i.health_score,
               e.originator_id, e.originator_version, e.topic, e.state, i.opened
        FROM ledger.execution_interval AS i
        JOIN ledger.ledger_events AS e ON e.notification_id = i.opened
        WHERE i.line_key = %(line_key)s AND i.opened > %(after)s ORDER BY i.opened"""
    """SQL: the changes by which the condition of an alert may end, in order of recording.

    The columns are those of ``LineChange``, and of its event five: id, version, topic, state and
    position. All but the first two may be missing. The parameters are ``line_id``, ``line_key``,
    ``since``, the id of the ``subject``, and the positions of the begin and of the line's closing,
    ``after`` and ``before``.
    """
    past: ClassVar[Past | None] = None
    """The statements of a preview of the past; None if the kind has no such preview."""

    @classmethod
    def kind(cls) -> str:
        """The name of the kind in the API and in events."""
        return str(cls.__struct_config__.tag)

    @classmethod
    def blanks(cls) -> dict[str, Blank]:
        notes = ((field.name, note) for field in fields(cls) for note in get_args(field.type))
        return {name: note for name, note in notes if isinstance(note, Blank)}

    @classmethod
    def suggested(cls) -> dict[str, Any]:
        """The condition that the form suggests, as the API takes it."""
        return {"kind": cls.kind()} | {name: each.default for name, each in cls.blanks().items()}

    @classmethod
    def parameters(cls, conditions: Conditions, now: datetime) -> dict[str, Any]:
        """The parameters of ``may_hold``, ``earliest`` and ``past``, named as no other kind's."""
        return {}

    def episodes(self, current: LineNow) -> Episodes:
        """The present episodes of a line that is not closed."""
        return ()

    def text(self, for_seconds: int, episode: Episode, current: LineNow) -> str:
        """The sentence of an alert, without its full stop, and without a run's data."""
        raise NotImplementedError

    def transitions(self, changes: Changes, since: datetime | None) -> Transitions:
        """When the condition ended and began again; ``since``: the begin of the present episode."""
        return (Transition(change.since, False) for change in changes)


# Parts of several kinds.

HAS_RUN = """EXISTS (
    SELECT FROM ledger.run AS r WHERE r.line_key = l.line_key AND r.status IN ({statuses}))"""
HAS_RANK = """EXISTS (
    SELECT FROM ledger.execution_rank AS r WHERE r.line_id = l.line_id AND {condition})"""


def choices(*values: str) -> Mapping[str, str]:
    """The options of a blank whose words are those of the API; a comma means or."""
    return {value: value.replace(",", " or ") for value in values}


def each_once(order: Sequence[str]) -> Callable[[list[W]], list[W]]:
    """Return a check that sorts words, and refuses a word that is there twice."""

    def check(words: list[W]) -> list[W]:
        if len(set(words)) < len(words):
            raise ValueError("has a word twice")
        return sorted(words, key=order.index)

    return check


def as_set(words: list[W]) -> list[W]:
    return sorted(set(words))


def begun(type_: SubjectType, id_: str, since: datetime, position: int) -> Episode:
    return Episode(AlertSubject(type_, id_), since, str(position), position)


def of_line(current: LineNow, began: Began | None) -> Episodes:
    own = current.execution.id
    return [] if began is None else [begun("service_line", own, began.since, began.position)]


def of_blockers(changes: Changes, causes: Sequence[str] | None = None) -> Transitions:
    """When blockers of some causes, or of any, were opened and cleared."""
    for change in changes:
        match None if change.event is None else change.event.body:
            case events.Closed():
                yield Transition(change.since, False)
            case events.Unblocked(blocker_id=blocker):
                yield Transition(change.since, False, AlertSubject("blocker", blocker))
            case events.Blocked(blocker_id=blocker, cause=cause) if (
                causes is None or cause in causes
            ):
                yield Transition(change.since, True, AlertSubject("blocker", blocker), change)
