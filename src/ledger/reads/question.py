"""A read as a value, and what it is answered with."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from ledger.postgres.scope import Planning, Tenant

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What is read of the views: of the present, or of what was known at an instant."""

    tenant: Tenant
    statement: str
    """Its rows begin with the position that they show; a statement gives one row at least."""
    parameters: Mapping[str, Any]
    views: frozenset[str]
    """The views that the statement reads."""
    planning: Planning
    as_of: datetime | None = None
    """The instant asked about; None: now. The statement is given it as ``as_of``."""
    is_settled: bool = False
    """Whether nothing more can be recorded by that instant: the statement's ``settled``."""
    is_behind_all: bool = False
    """Whether nothing may be shown that another live view does not show yet, as in feeds."""
    is_kept: bool = False
    """Whether the answer follows from the views' rows alone, so that it may be given again
    (``answers.py``). The clock's day and week are then among the parameters."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The statement's parameters, with those that a statement of the past takes."""
        if self.as_of is None:
            return self.parameters
        return {**self.parameters, "as_of": self.as_of, "settled": self.is_settled}

    @property
    def asked(self) -> tuple[Tenant, str, Mapping[str, Any], Planning]:
        """What the door is asked."""
        return self.tenant, self.statement, self.values, self.planning

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """All that the answer depends on, but for the views."""
        values = self.values
        words = [tuple(v) if isinstance(v, list) else v for v in values.values()]
        return (self.tenant, self.statement, *values, *words)


class Answer(list[Any]):
    """The rows of a question, at least one; several who ask the same may share an answer."""

    __slots__ = ("_made", "is_known", "position")

    def __init__(self, rows: Sequence[Any]) -> None:
        super().__init__(rows)
        self.is_known: bool = rows[0][0] is not None
        """Whether there is a position: at an instant of the past there may be none yet."""
        self.position: int = rows[0][0] or 0
        """The position that the rows show."""
        self._made: Any = None

    def once(self, make: Callable[..., T], *details: Any) -> T:
        """What is made of the rows: made for whoever comes first, and given to all.

        The rows are let go then. ``details`` must be in the question: whoever asks the same is
        given the same. Raises what ``make`` raises.
        """
        if self._made is None:
            self._made = make(self, *details)
            self.clear()
        made: T = self._made
        return made
