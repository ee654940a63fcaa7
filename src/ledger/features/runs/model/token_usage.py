"""The tokens that a run used, by model (contract, Facts)."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ledger.engine.values.rendering import render_as


class TokenUsage(msgspec.Struct, frozen=True, array_like=True):
    """The tokens that a run used of one model, stored as an array: in half the bytes."""

    model: str
    input: int = 0
    output: int = 0
    cache_read: int = 0
    """A part of ``input``, like ``cache_write``."""
    cache_write: int = 0
    reasoning: int = 0
    """A part of ``output``."""

    def plus(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.model,
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
        )


class Used(NamedTuple):
    """The tokens that a run used, as its ending or a correction reports them."""

    tokens: int | None = None
    by_model: tuple[TokenUsage, ...] | None = None


class ShownTokenUsage(msgspec.Struct, gc=False):
    """The tokens of one model: caches are a part of `input`, reasoning is a part of `output`."""

    model: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int


def tokens_view(usage: Sequence[TokenUsage] | None) -> list[ShownTokenUsage] | None:
    return None if usage is None else [render_as(ShownTokenUsage, each) for each in usage]
