"""The fields that a refusal names, as JSON pointers and sentences (contract, Access, "Errors").

A refusal repeats nothing of the request, except the name of an unknown field or parameter: a sender
who misspelt it must learn which. Only a short name of harmless characters is repeated.
"""

import re
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from ledger.engine.values.errors import Invalid, LedgerError

MOST_ERRORS = 50
"""The most errors in one response.

Without this limit, the response to a body of unknown fields would be many times as large as the
body, and would be stored under an idempotency key.
"""

_REPEATED = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""The names that a response repeats. None of them needs an escape in a JSON pointer."""

_UNKNOWN = "is not known"


def pointer_to(parent: str, name: str) -> str:
    """The pointer to a field that the sender named; the parent's if the name is not repeated."""
    return f"{parent}/{name}" if _REPEATED.fullmatch(name) else parent


def unknown(parent: str, name: str, kind: str = "field") -> tuple[str, str]:
    pointer = pointer_to(parent, name)
    return pointer, _UNKNOWN if pointer != parent else f"has an unknown {kind}"


def pointers(
    error: ValidationError, prefix: str, kind: str = "field"
) -> tuple[tuple[str, str], ...]:
    """A validation error as (JSON pointer, sentence) pairs. ``kind``: what the names belong to."""
    faults = []
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    for problem in problems[:MOST_ERRORS]:
        path, sentence = problem["loc"], problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            *within, name = path
            faults.append(unknown(_pointer(prefix, within), str(name), kind))
        else:
            faults.append((_pointer(prefix, path), sentence))
    return tuple(faults)


def _pointer(prefix: str, path: Iterable[int | str]) -> str:
    return "".join([prefix, *(f"/{_escaped(part)}" for part in path)])


def _escaped(part: int | str) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def full_detail(error: LedgerError, locate: Callable[[str], str] = str) -> str:
    problems = error.errors if isinstance(error, Invalid) else ()
    return error.detail + "".join(
        f" {locate(pointer) or 'fact'}: {sentence}." for pointer, sentence in problems
    )
