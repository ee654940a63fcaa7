"""Answers about runs, made of the views' rows, with the runs' decrypted payloads.

The views have the payloads encrypted. An answer also names the lines whose runs' payloads it holds,
so that its reader is noted for the audit log as the answer is given (contract, Feeds).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Response
from msgspec import Raw

from ledger.api.machinery.middleware import is_head
from ledger.api.reading import Asking, encode_cursor, paged, read_at
from ledger.api.replies import Reply, answer
from ledger.application.read_notes import SeenLine
from ledger.domain.errors import NotFound, ReadOnly, RunsNotSupported, Unavailable
from ledger.domain.values import MODELS_WITH_RUNS, format_instant, id_of_key
from ledger.language.rendering import json_text
from ledger.log.vault import Vault
from ledger.reads.question import Answer
from projections.run.shown import NULL, Payloads, RunColumns, shown_run

R = TypeVar("R", bound=Response)

UNKNOWN = "No such run."

_BREATH_SECONDS = 0.05
_WAIT_SECONDS = 2.0

Seen = dict[int, SeenLine]
"""The lines of whose runs an answer holds payloads, by their keys."""


def line_runs_reply(rows: Answer, limit: int, bound_to: Mapping[str, Any], vault: Vault) -> Reply:
    """The reply of a page of a line's runs. Raises NotFound and RunsNotSupported."""
    _, model, *_ = rows[0]
    if model is None:
        raise read_at(rows, NotFound("No such service line."))
    if model not in MODELS_WITH_RUNS:
        raise read_at(rows, RunsNotSupported())
    return runs_reply(rows, 2, limit, bound_to, vault)


def runs_reply(
    rows: Answer, first: int, limit: int, bound_to: Mapping[str, Any], vault: Vault
) -> Reply:
    """The reply of a page of runs; its cursor is bound to the filters, and to the line if any.

    ``first`` is the column of the run's id.
    """
    seen: Seen = {}

    def cursor_after(row: Any) -> str:
        return encode_cursor({"id": row[first], "at": format_instant(row[first + 1])}, bound_to)

    def item(row: Any) -> str:
        return _item(row[first:], vault, seen)

    reply = paged(_by_run(rows, first), limit, first, cursor_after, item, tagged=True)
    reply.seen = frozenset(seen.values())
    return reply


def run_reply(rows: Answer, vault: Vault) -> Reply:
    """The reply of a run. Raises NotFound."""
    ((_, *run),) = _by_run(rows, 1)
    if run[0] is None:
        raise read_at(rows, NotFound(UNKNOWN))
    seen: Seen = {}
    reply = answer('{"data":' + _item(run, vault, seen) + "}", rows.position, tagged=True)
    reply.seen = frozenset(seen.values())
    return reply


def _by_run(rows: Answer, first: int) -> Answer:
    """The rows with one row for each run, whose last column has the run's payloads.

    Of input, output and error, each is that of the latest event that has one. ``first`` is the
    column of the run's id.
    """
    runs = list[tuple[Any, ...]]()
    for row in rows:
        if runs and runs[-1][first] == row[first]:
            payloads = runs[-1][-1]
            payloads[:] = [new or old for new, old in zip(row[-3:], payloads, strict=True)]
        else:
            runs.append((*row[:-3], list(row[-3:])))
    return Answer(runs)


def _item(run: Sequence[Any], vault: Vault, seen: Seen) -> str:
    """A run's JSON, with the decrypted payloads; if it has one, its line is added to ``seen``."""
    *columns, sealed = run
    shown = RunColumns(*columns)
    payloads = _opened(shown, sealed, vault)
    if payloads is not _NOTHING and shown.line_key not in seen:
        line_id = id_of_key("LIN", shown.line_key)
        seen[shown.line_key] = SeenLine(line_id, shown.organization_id, shown.workspace_id)
    return json_text(shown_run(shown, payloads))


_NOTHING: Payloads = (NULL, NULL, NULL)


def _opened(run: RunColumns, sealed: Sequence[bytes | None], vault: Vault) -> Payloads:
    if run.wrapped is None or not any(sealed):
        return _NOTHING
    key = vault.unwrap(run.wrapped, run.organization_id, run.run_id)
    input_, output, error = (
        NULL if text is None else Raw(key.open(field, text))
        for field, text in zip(("input", "output", "error"), sealed, strict=True)
    )
    return input_, output, error


async def noted(asking: Asking, response: R) -> R:
    """Return the response once it is noted, if it holds data of runs.

    A 304 and the answer to a HEAD hold none. Raises Unavailable if so many notes wait that one more
    could not be recorded in time. Raises ReadOnly on a read node, which cannot note who reads, to a
    HEAD as to a GET, unless its operator has allowed unaudited reads (contract, Several nodes).
    """
    if not isinstance(response, Reply) or not response.seen:
        return response
    request, services = asking.request, asking.services
    notes = services.read_notes
    if not services.shows_payloads:
        raise ReadOnly("The answer holds runs' data: ask a node that records who reads them.")
    if notes is None or is_head(request.scope):
        return response
    time = asyncio.get_running_loop().time
    deadline = time() + _WAIT_SECONDS
    while not notes.has_room:
        if time() >= deadline:
            raise Unavailable("The audit log cannot record at present who reads runs.")
        await asyncio.sleep(_BREATH_SECONDS)
    notes.note(asking.principal, request.state.request_id, response.seen)
    return response
