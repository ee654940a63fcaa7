"""The classes that describe routes. ``_operations.py`` has an object for each route."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A route, and the type of its method's result."""

    method: str
    path: str
    type: Any


class Answer(Operation[T]):
    """A read. Its method returns the answer's ``data``."""


class Command(Operation[T]):
    """A command. Its method returns the answer's ``data``, or None."""


class Listing(Operation[T]):
    """A list in pages. Its method returns the rows."""


class Bare(Operation[T]):
    """A route whose method returns the whole answer."""


class Text(Operation[T]):
    """A route that answers text."""


class File(Operation[T]):
    """A route that answers a file, or a stream without end."""
