"""A read as a value (the question), and its rows (the answer)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from ledger.postgres.scope import Planning, Tenant

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A read of the views: of the present, or of the state known at an instant of the past."""

    tenant: Tenant
    statement: str
    """SQL whose rows begin with the position that they show; it returns at least one row."""
    parameters: Mapping[str, Any]
    views: frozenset[str]
    """The views that the statement reads."""
    planning: Planning
    as_of: datetime | None = None
    """The asked instant, the statement's parameter ``as_of``; None: the present."""
    is_settled: bool = False
    """Whether no further event can be recorded by that instant: the parameter ``settled``."""
    is_behind_all: bool = False
    """Whether the rows may show only events that every other live view shows too, as in feeds."""
    is_kept: bool = False
    """Whether the answer follows from the views' rows alone, so that it may be cached
    (``answers.py``). The day and the week of the clock are then among the parameters."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The statement's parameters, with ``as_of`` and ``settled`` if it is about the past."""
        if self.as_of is None:
            return self.parameters
        return {**self.parameters, "as_of": self.as_of, "settled": self.is_settled}

    @property
    def asked(self) -> tuple[Tenant, str, Mapping[str, Any], Planning]:
        """The arguments of the door's ``fetch``."""
        return self.tenant, self.statement, self.values, self.planning

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The key of the answer in the cache: everything that it depends on, except the views."""
        values = self.values
        words = [tuple(v) if isinstance(v, list) else v for v in values.values()]
        return (self.tenant, self.statement, *values, *words)


class Answer(list[Any]):
    """The rows of a question, at least one. Requests with equal questions may share an answer."""

    __slots__ = ("_made", "is_known", "position")

    def __init__(self, rows: Sequence[Any]) -> None:
        super().__init__(rows)
        self.is_known: bool = rows[0][0] is not None
        """Whether the answer has a position: at an instant of the past it may not be known yet."""
        self.position: int = rows[0][0] or 0
        """The position that the rows show."""
        self._made: Any = None

    def once(self, make: Callable[..., T], *details: Any) -> T:
        """Return what ``make`` makes of the rows: made for the first request, shared by all.

        The rows are dropped then. ``details`` must follow from the question, since all requests
        with this question get the same result. Raises what ``make`` raises.
        """
        if self._made is None:
            self._made = make(self, *details)
            self.clear()
        made: T = self._made
        return made
