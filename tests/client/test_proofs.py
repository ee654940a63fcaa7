"""Proofs and statements of a real, sealed log hold offline, and no altered ones do."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from execution_ledger import Ledger, NotVerified, Unavailable, verify

from tests.client.support import Service
from tests.support.sealing import seal
from tests.support.service import ALL


@pytest.fixture
def ledger(service: Service, options: dict[str, Any]) -> Iterator[Ledger]:
    token = service.edge.token(*ALL, "statements:issue")
    with Ledger(**options | {"token": token}) as ledger:
        yield ledger


def test_answers_of_the_sealed_log_are_proved_offline(
    service: Service, ledger: Ledger, tmp_path: Path
) -> None:
    line = service.edge.fresh("capacity")
    item = ledger.lines.check_in(line, hours=2.5)
    assert item.position is not None
    month_ago = datetime.now(UTC) - timedelta(days=30)
    issued = ledger.statements.issue(from_=month_ago, to=datetime.now(UTC))
    seal(service.edge.conninfo, tmp_path / "sealed")

    key = ledger.proofs.key()
    proof = ledger.proofs.get(position=item.position)
    proved = verify.proof(proof, key)
    assert (proved.leaf["stream"], proved.content) == (line, {"hours": 2.5})
    note = verify.checkpoint(ledger.proofs.checkpoint(), key)
    assert note.size == proof.tree_size
    assert msgspec.json.decode(ledger.proofs.entry(item.position)) == proved.leaf
    assert ledger.proofs.inclusion(position=item.position).leaf_index == proof.leaf_index
    assert ledger.proofs.consistency(from_=1, to=note.size).to == note.size

    bundle = ledger.statements.bundle(issued.id)
    (tmp_path / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    statement = verify.statement(tmp_path / "bundle.json", key)
    assert statement.document["total"]["hours"] == 2.5
    assert ledger.statements.get(issued.id).total.hours == 2.5
    assert ledger.statements.changes(issued.id).changed is False
    assert [each.id for each in ledger.statements.list()] == [issued.id]
    assert ledger.statements.withdraw(issued.id, reason="Draft").withdrawn_at is not None
    assert len(list(ledger.statements.export(issued.id))) >= 2

    for altered in (
        msgspec.structs.replace(proof, leaf_index=proof.leaf_index + 1),
        msgspec.structs.replace(proof, stored=bundle.stored),
        msgspec.structs.replace(bundle, document=proof.stored),
    ):
        with pytest.raises(NotVerified):
            verify.proof(altered, key)
    with pytest.raises(NotVerified, match="not the key that you keep"):
        verify.proof(proof, "other+00000000+AA==")


def test_a_position_that_is_not_sealed_yet_is_unavailable(
    service: Service, options: dict[str, Any]
) -> None:
    with Ledger(**options, timeout=1) as ledger:
        item = ledger.lines.check_in(service.edge.fresh(), note="Not sealed")
        assert item.position is not None
        with pytest.raises(Unavailable) as raised:
            ledger.proofs.get(position=item.position)
    assert raised.value.code == "behind"
