"""JSON that commands, views and reads render alike.

Views store JSON texts, so that reads pass them on without parsing.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ledger.engine.values.values import format_instant

S = TypeVar("S", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode

ViewInstant = Annotated[datetime, Meta(tz=True)]
"""An instant in a struct of a response: ``time_text`` renders it, and decoding restores it."""


def doc(description: str) -> Meta:
    """The description of a field of a response."""
    return Meta(description=description)


def time_text(instant: datetime | None) -> Any:
    """The text of an instant, for a ``ViewInstant``: msgspec would write all six decimals."""
    return None if instant is None else format_instant(instant)


def render_as(view: type[S], of: object, **more: Any) -> S:
    """A struct of ``view`` with the values that ``of`` has for its fields, and ``more``."""
    names, pick = _picker(view, tuple(more))
    values = [format_instant(each) if type(each) is datetime else each for each in pick(of)]
    return view(**dict(zip(names, values, strict=True)), **more) if more else view(*values)


@cache
def _picker(view: type[S], but: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[Any], Any]]:
    names = tuple(name for name in view.__struct_fields__ if name not in but)
    return names, attrgetter(*names)


def json_text(value: Any) -> str:
    return _encode(value).decode()


def members(value: Any) -> str:
    """The JSON members of an object without its braces, to be joined with other members."""
    return json_text(value)[1:-1]
