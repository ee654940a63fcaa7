"""A read with its parameters (the question), and its rows (the answer)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.principal import Tenant
from ledger.engine.views.statements import Read

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A read of the views: of the present, or of the state known at an instant of the past."""

    tenant: Tenant
    read: Read
    parameters: Mapping[str, Any]
    as_of: datetime | None = None
    """The instant, the statement's parameter ``as_of``; None: the present."""
    is_settled: bool = False
    """True if no further event can be recorded by that instant: the parameter ``settled``."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The statement's parameters, with ``as_of`` and ``settled`` if it is about the past."""
        if self.as_of is None:
            return self.parameters
        return {**self.parameters, "as_of": self.as_of, "settled": self.is_settled}

    @property
    def arguments(self) -> tuple[Tenant, str, Mapping[str, Any], Planning]:
        """The arguments of the read pool's ``fetch``."""
        return self.tenant, self.read.sql, self.values, self.read.planning

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The key of the answer in the cache: everything that it depends on, except the views."""
        values = self.parameters if self.as_of is None else self.values
        words = [tuple(v) if isinstance(v, list) else v for v in values.values()]
        return (self.tenant, self.read.sql, *values, *words)

    def walked(self) -> "Question":
        """The same question as a page of an export."""
        return replace(self, read=self.read._replace(planning=Planning.SCAN))

    def counted(self) -> "Question":
        """The number of a list's rows as one (position, number) row, bounded by ``limit``."""
        sql = f"SELECT max(l.position), count(l.key) FROM ({self.read.sql}) AS l (position, key)"
        planning = self.read.planning
        planning = Planning.LONG if planning is Planning.SHORT else planning
        return replace(self, read=self.read._replace(sql=sql, planning=planning))


class Answer(list[Any]):
    """The rows of a question, at least one. Requests with equal questions may share an answer."""

    __slots__ = ("_made", "is_known", "position")

    def __init__(self, rows: Sequence[Any]) -> None:
        super().__init__(rows)
        self.is_known: bool = rows[0][0] is not None
        """True if the answer has a position: at an instant of the past it may not be known yet."""
        self.position: int = rows[0][0] or 0
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
