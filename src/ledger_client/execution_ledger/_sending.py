"""Sending a queue's facts: batches that the service accepts, and the outcome of each fact."""

from __future__ import annotations

from typing import NamedTuple

import httpx
import msgspec

from execution_ledger._requests import BROKEN, decoded, error_of, unexpected
from execution_ledger._spool import Queue, Waiting
from execution_ledger.errors import Problem, UnexpectedAnswer, problem_of
from execution_ledger.types import FactItem

BATCH_PATH, FACTS_PATH = "/v1/facts/batch", "/v1/facts"
"""The route for an array of facts, and the route of older services."""
BATCH_FACTS, BATCH_BYTES = 1_000, 7 * 1024 * 1024
"""The most facts and bytes of a request. The service takes 1,000 facts and 8 MiB."""

HELD = frozenset({408, 429, 503})
"""The statuses of an item that has no outcome: it is sent again."""


class _Items(msgspec.Struct):
    data: list[FactItem]


class Result(NamedTuple):
    """A fact that is not sent again: its outcome, or the reason, or neither if it was given up."""

    fact: Waiting
    item: FactItem | None
    problem: Problem | None


class Sent(NamedTuple):
    """The outcome of a request."""

    results: list[Result]
    held: Problem | None
    """Why facts of the request have no outcome, if the service gave a reason."""


class Sender:
    """Sends batches, and remembers what the service accepts."""

    def __init__(self) -> None:
        self._most, self._path = BATCH_FACTS, BATCH_PATH

    def batch(self, queue: Queue) -> list[Waiting]:
        """The first facts of a queue that fit into one request."""
        facts = queue.first(self._most)
        size = 0
        for number, fact in enumerate(facts):
            size += len(fact.text) + 1
            if size > BATCH_BYTES and number:
                return facts[:number]
        return facts

    def send(self, http: httpx.Client, batch: list[Waiting]) -> Sent:
        """Send a batch once. LedgerError or TransportError means that no fact has an outcome.

        Without results and without an error, the next batch differs: it is smaller, to find the
        fact that is at fault, or it takes the other route.
        """
        body = b"[" + b",".join(fact.text for fact in batch) + b"]"
        headers, url = {"content-type": "application/json"}, str(http.base_url).rstrip("/")
        with http.stream("POST", self._path, content=body, headers=headers) as answer:
            try:
                answer.read()
            except httpx.DecodingError:
                raise unexpected(answer, url) from None
        if answer.is_success:
            items = decoded(_Items, answer, url).data
            try:
                return _sent(batch, items)
            except BROKEN:
                raise unexpected(answer, url) from None
        problem = error_of(answer, url)
        if isinstance(problem, UnexpectedAnswer):
            raise problem
        if problem.status in (400, 413, 422):
            if len(batch) == 1:
                self._most = BATCH_FACTS
                return Sent([Result(batch[0], None, problem)], None)
            self._most = len(batch) // 2
            return Sent([], None)
        if problem.status in (404, 405) and self._path == BATCH_PATH:
            self._path = FACTS_PATH
            return Sent([], None)
        raise problem


def _sent(batch: list[Waiting], items: list[FactItem]) -> Sent:
    """The facts of a batch that have an outcome."""
    results, held = [], None
    for fact, item in zip(batch, items, strict=True):
        error = None if item.error is None else msgspec.to_builtins(item.error)
        problem = None if error is None else problem_of(error["status"], error)
        if problem is None or problem.status not in HELD:
            results.append(Result(fact, item, problem))
        else:
            held = held or problem
    return Sent(results, held)
