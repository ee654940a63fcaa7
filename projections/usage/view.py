"""The view of statements: a row each, updated by later events (contract, Statements).

The document and its total are outside the log: ``statements.py`` joins them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import BigInt, Index, Instant, Octets, Table, Text
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.rendering import members, time_text
from ledger.engine.values.values import parse_instant, sort_key
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.usage.model.statement import (
    STATEMENT_EVENTS,
    StatementAsIssued,
    StatementIssued,
)


class StatementRow(NamedTuple):
    """A statement."""

    statement_id: Text
    statement_key: BigInt
    """The statement id as a number: the order of lists."""
    organization_id: Text
    workspace_id: Text | None
    begin_at: Instant
    end_at: Instant
    document_sha256: Octets
    issued: BigInt
    replaced_by: Text | None
    withdrawn_at: Instant | None
    item: Text
    """JSON members: the issued statement without its total."""
    position: BigInt


STATEMENT = Table(
    "statement",
    StatementRow,
    key=("statement_id",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(Index("organization_id, statement_key"), Index("statement_key")),
)


class _Statement(msgspec.Struct):
    row: StatementRow | None = None


class StatementView(Remembering):
    """The projection ``statement``."""

    name = "statement"
    version = 1
    tables: tuple[Table, ...] = (STATEMENT,)
    events: frozenset[type[Event]] = frozenset(STATEMENT_EVENTS)

    def __init__(self) -> None:
        self._statements: FoldCache[str, _Statement] = FoldCache(lambda _: _Statement())
        super().__init__(self._statements)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        ids = {each: None for event in events for each in _about(event)}
        generation.find(self._statements, ids, STATEMENT, lambda row: (row[0], _Statement(row)))

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        for event in events:
            own, *replaced = _about(event)
            if isinstance(event.body, StatementIssued):
                self._statements[own].row = _issued(event, event.body)
            else:
                self._change(own, withdrawn_at=event.recorded_at, position=event.position)
            for other in replaced:
                self._change(other, replaced_by=own, position=event.position)
            self._statements.change(own)

    def _change(self, statement_id: str, **values: object) -> None:
        statement = self._statements[statement_id]
        if statement.row is not None:
            statement.row = statement.row._replace(**values)  # type: ignore[arg-type]
            self._statements.change(statement_id)

    def store(self, generation: Generation, most: int | None = None) -> None:
        changed = self._statements.pop_changed(most)
        generation.write(STATEMENT, [each.row for each in changed if each.row is not None])


def _about(event: Recorded) -> tuple[str, ...]:
    """The statements that an event changes: its own, and the one that it replaces."""
    replaces = getattr(event.body, "replaces", None)
    return (event.originator_id,) if replaces is None else (event.originator_id, replaces)


def _issued(event: Recorded, body: StatementIssued) -> StatementRow:
    document = StatementAsIssued(
        id=event.originator_id,
        **{name: getattr(body, name) for name in body.__struct_fields__},
        issued_at=time_text(event.recorded_at),
        issued_by=event.actor,
    )
    return StatementRow(
        statement_id=event.originator_id,
        statement_key=sort_key(event.originator_id),
        organization_id=body.organization_id,
        workspace_id=body.workspace_id,
        begin_at=parse_instant(body.from_),
        end_at=parse_instant(body.to),
        document_sha256=bytes.fromhex(body.document_sha256),
        issued=event.position,
        replaced_by=None,
        withdrawn_at=None,
        item=members(document),
        position=event.position,
    )
