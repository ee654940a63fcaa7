"""Descriptions of routes, of which ``_operations.py`` has one each."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A route, and the type of what its method gives, which is None for nothing."""

    method: str
    path: str
    type: Any


class Answer(Operation[T]):
    """A read; the ``data`` of the answer is given."""


class Command(Operation[T]):
    """A command; the ``data`` of the answer is given, or nothing."""


class Listing(Operation[T]):
    """A list of pages; its rows are given."""


class Bare(Operation[T]):
    """A route whose whole answer is given."""


class Text(Operation[T]):
    """A route that answers text."""


class File(Operation[T]):
    """A route that answers a file, or a stream without end."""
