"""Events in, rows of statements out."""

from datetime import timedelta
from typing import Any

from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import InstantText, parse_instant, sort_key
from ledger.features.usage.model.statement import StatementIssued, StatementWithdrawn
from projections.usage.view import STATEMENT, StatementRow, StatementView
from tests.support.domain import START, recorded
from tests.support.view_rows import given

ORG, WS, FIRST, SECOND = "ORG-26-000001", "WS-26-000001", "STM-26-000001", "STM-26-000002"
ISSUED = StatementIssued(
    organization_id=ORG,
    workspace_id=WS,
    from_=InstantText("2026-02-28T23:00:00Z"),
    to=InstantText("2026-03-31T22:00:00Z"),
    time_zone="Europe/Berlin",
    as_of=InstantText("2026-04-15T11:59:59.5Z"),
    position=0,
    document_sha256=bytes(range(32)).hex(),
    note="März",
)
ITEM = (
    '"id":"STM-26-000001","organization_id":"ORG-26-000001","workspace_id":"WS-26-000001",'
    '"from":"2026-02-28T23:00:00Z","to":"2026-03-31T22:00:00Z","time_zone":"Europe/Berlin",'
    '"as_of":"2026-04-15T11:59:59.5Z","note":"März","reference":null,'
    '"issued_at":"2026-04-15T12:00:00Z","issued_by":{"type":"user","id":"USR-1"},"position":0,'
    f'"document_sha256":"{bytes(range(32)).hex()}","replaces":null'
)


def event(body: Any, position: int, statement: str = FIRST) -> Recorded:
    at = START + timedelta(microseconds=position - 1)
    return recorded(body, position, originator_id=statement, service_line_id=None, recorded_at=at)


def row(position: int, **later: Any) -> StatementRow:
    begun = StatementRow(
        statement_id=FIRST,
        statement_key=sort_key(FIRST),
        organization_id=ORG,
        workspace_id=WS,
        begin_at=parse_instant(ISSUED.from_),
        end_at=parse_instant(ISSUED.to),
        document_sha256=bytes(range(32)),
        issued=1,
        replaced_by=None,
        withdrawn_at=None,
        item=ITEM,
        position=position,
    )
    return begun._replace(**later)


def test_an_issued_statement_has_a_row() -> None:
    given(StatementView()).when(event(ISSUED, 1)).then(STATEMENT, row(1))


def test_a_withdrawal_is_noted_with_its_instant() -> None:
    withdrawn = event(StatementWithdrawn(reason="A mistake"), 2)
    given(StatementView(), event(ISSUED, 1)).when(withdrawn).then(
        STATEMENT, row(2, withdrawn_at=withdrawn.recorded_at)
    )


def test_a_replacement_is_noted_on_the_statement_that_it_replaces() -> None:
    second = StatementIssued(
        **{name: getattr(ISSUED, name) for name in ISSUED.__struct_fields__} | {"replaces": FIRST}
    )
    view = given(StatementView(), event(ISSUED, 1))
    written = view.when(event(second, 2, SECOND))
    rows = {each.statement_id: each for each in written.rows(STATEMENT)}
    assert rows[FIRST] == row(2, replaced_by=SECOND)
    assert (rows[SECOND].issued, rows[SECOND].replaced_by) == (2, None)
