"""The tree of spans: which run a span lies in, and the tokens of the spans that lie in a run.

A span lies in the nearest run above it. To find it, the spans of a request and their kin
(``features/traces/tables.py``) suffice: a way up ends at a run, at a root, or where a span has not
arrived.

No token counts twice. An agent's library and its model's library may both report one call: by a
span and another one below it, or by two spans with the same answer of the model.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ledger.engine.log.tables import SpanRow
from ledger.features.runs.model.token_usage import TokenUsage

SpanKey = tuple[bytes, bytes]
"""(trace, span)"""


def key_of(row: SpanRow) -> SpanKey:
    return row.trace_id, row.span_id


class _Location(NamedTuple):
    run: SpanRow | None
    is_counted: bool
    """True if a span in between has the tokens of all spans below it."""


_NOWHERE = _Location(None, False)


class SpanTree:
    """Spans of one organization as the senders of one workspace see them, up to other runs.

    A sender sees the spans of its own workspace and those of senders without one, who see all. Of a
    span that several have sent, the sender's own row counts first.
    """

    def __init__(self, spans: Iterable[SpanRow], workspace_id: str = "") -> None:
        """``workspace_id`` is empty for senders without a workspace."""
        self.sender = workspace_id
        """The senders' workspace."""
        self._spans: dict[SpanKey, SpanRow] = {}
        for row in spans:
            existing = self._spans.get(key_of(row))
            if self._sees(row) and (existing is None or self._rank(row) < self._rank(existing)):
                self._spans[key_of(row)] = row
        self._locations: dict[SpanKey, _Location] = {}
        """The location of each span, as far as it was needed."""

    def _sees(self, row: SpanRow) -> bool:
        return not self.sender or row.workspace_id in (self.sender, "")

    def _rank(self, row: SpanRow) -> tuple[bool, bool, int]:
        return row.workspace_id != self.sender, row.workspace_id != "", row.number

    def run_of(self, span: SpanRow) -> SpanRow | None:
        """The nearest run above a span, or None if no run is known there."""
        return self._locate(span).run

    def _locate(self, span: SpanRow) -> "_Location":
        way: list[SpanRow] = []
        row: SpanRow | None = span
        while row is not None and key_of(row) not in self._locations:
            # Until the way is known, nothing lies above it: so a circle ends.
            self._locations[key_of(row)] = _NOWHERE
            way.append(row)
            row = self._above(row)
            if row is not None and row.source is not None:
                break
        for each in reversed(way):
            self._locations[key_of(each)] = self._below(row)
            row = each
        return self._locations[key_of(span)]

    def _below(self, row: SpanRow | None) -> "_Location":
        """The location of a span just below another one."""
        if row is None:
            return _NOWHERE
        if row.source is not None:
            return _Location(row, False)
        location = self._locations[key_of(row)]
        return location._replace(is_counted=location.is_counted or row.input is not None)

    def _above(self, row: SpanRow) -> SpanRow | None:
        return None if row.parent_id is None else self._spans.get((row.trace_id, row.parent_id))

    def children(self) -> Iterator[tuple[SpanRow, SpanRow]]:
        """Each run of these senders that lies in another one, with that one."""
        for row in self._spans.values():
            is_own = row.source is not None and row.workspace_id == self.sender
            above = self.run_of(row) if is_own else None
            if above is not None and key_of(above) != key_of(row):
                yield row, above

    def parents_first(self, runs: Sequence[SpanRow]) -> list[SpanRow]:
        """These runs in an order in which none comes before its parent; in a circle, some one."""
        left = {key_of(row): row for row in runs}
        ordered: list[SpanRow] = []
        for row in runs:
            way: list[SpanRow] = []
            above: SpanRow | None = row
            while above is not None and left.pop(key_of(above), None) is not None:
                way.append(above)
                above = self.run_of(above)
            ordered += reversed(way)
        return ordered

    def usage(self) -> dict[SpanKey, Sequence[TokenUsage]]:
        """The tokens by model of the spans in each run; for a workspace, of its own spans."""
        sums: dict[SpanKey, dict[str, TokenUsage]] = defaultdict(dict)
        counted: set[tuple[SpanKey, str]] = set()
        for row in sorted(self._spans.values(), key=lambda row: row.number):
            if row.input is None or row.source is not None:
                continue
            run, is_counted = self._locate(row)
            is_own = self.sender in ("", row.workspace_id)
            if run is None or is_counted or not is_own:
                continue
            if row.response_id is not None:
                answer = key_of(run), row.response_id
                if answer in counted:
                    continue
                counted.add(answer)
            used, by_model = _used(row), sums[key_of(run)]
            total = by_model.get(used.model)
            by_model[used.model] = used if total is None else total.plus(used)
        return {run: tuple(by_model.values()) for run, by_model in sums.items()}


def children_of(
    spans: Sequence[SpanRow], tree: SpanTree | None = None
) -> list[tuple[SpanRow, SpanRow]]:
    """Each run that lies in another, as its sender sees it; ``tree`` is one that exists."""
    senders = {row.workspace_id for row in spans if row.source is not None}
    trees = {} if tree is None else {tree.sender: tree}
    return [
        pair
        for sender in sorted(senders)
        for pair in (trees.get(sender) or SpanTree(spans, sender)).children()
    ]


def _used(row: SpanRow) -> TokenUsage:
    return TokenUsage(
        row.model or "",
        row.input or 0,
        row.output or 0,
        row.cache_read or 0,
        row.cache_write or 0,
        row.reasoning or 0,
    )
