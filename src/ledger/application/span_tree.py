"""The tree of spans: which run a span lies in, and the tokens of the spans that lie in a run.

A span lies in the nearest run above it. The spans of a request and their kin (``log/spans.py``)
are enough to tell: a way up ends at a run, at a root, or where a span has not arrived.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ledger.domain.run import TokenUsage
from ledger.log.tables import SpanRow

SpanKey = tuple[bytes, bytes]
"""(trace, span)"""


def key_of(row: SpanRow) -> SpanKey:
    return row.trace_id, row.span_id


class SpanTree:
    """Spans of one organization with all that is known above and below them, up to other runs."""

    def __init__(self, spans: Iterable[SpanRow]) -> None:
        self._spans = {key_of(row): row for row in spans}
        self._runs: dict[SpanKey, SpanRow | None] = {}
        """The run in which each span lies, as far as it was asked for."""

    def run_of(self, span: SpanRow) -> SpanRow | None:
        """The run in which a span lies: the nearest one above it. None: none is known."""
        way: list[SpanKey] = []
        at, found = key_of(span), None
        while at not in self._runs:
            # Until the way is known, nothing lies above it: so a circle ends.
            self._runs[at] = None
            way.append(at)
            row = self._spans.get(at)
            if row is None or row.parent_id is None:
                break
            at = row.trace_id, row.parent_id
            above = self._spans.get(at)
            if above is not None and above.source is not None:
                found = above
                break
        else:
            found = self._runs[at]
        for each in way:
            self._runs[each] = found
        return found

    def children(self) -> Iterator[tuple[SpanRow, SpanRow]]:
        """Each run that lies in another one, with that one."""
        for row in self._spans.values():
            above = self.run_of(row) if row.source is not None else None
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

    def usage(self, workspace_id: str | None) -> dict[SpanKey, Sequence[TokenUsage]]:
        """The tokens of the spans that lie in each run and are none, by model.

        ``workspace_id`` names the workspace whose spans count; None: all.
        """
        sums: dict[SpanKey, dict[str, TokenUsage]] = defaultdict(dict)
        for row in self._spans.values():
            if row.input is None or row.source is not None:
                continue
            above = self.run_of(row)
            if above is not None and workspace_id in (None, row.workspace_id):
                _add(sums[key_of(above)], row)
        return {run: tuple(by_model.values()) for run, by_model in sums.items()}


def _add(sums: dict[str, TokenUsage], row: SpanRow) -> None:
    model = row.model or ""
    known = sums.get(model) or TokenUsage(model)
    sums[model] = TokenUsage(
        model,
        known.input + (row.input or 0),
        known.output + (row.output or 0),
        known.cache_read + (row.cache_read or 0),
        known.cache_write + (row.cache_write or 0),
        known.reasoning + (row.reasoning or 0),
    )
