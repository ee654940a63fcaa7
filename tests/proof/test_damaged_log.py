"""Sealing stops at stored rows that are not those that were sealed."""

from pathlib import Path

import pytest

from ledger.features.proof.sealing.note import Signer
from tests.support.ledger import Ledger
from tests.support.sealing import seal, stop_reason, vandalize

OTHER_KEY = Signer.create().vkey


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (
            "UPDATE ledger.tile SET hashes = hashes || hashes WHERE number = 2",
            "not those of a tree",
        ),
        ("DELETE FROM ledger.tile WHERE level = 1", "not those of a tree"),
        (
            "UPDATE ledger.tile SET hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)"
            " WHERE number = 2",
            "not of what is sealed",
        ),
        # The whole line: the random origin and the hash may hold these digits too.
        (
            r"UPDATE ledger.checkpoint SET note = replace(note, E'\n601\n', E'\n602\n')",
            "does not fit",
        ),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 601",
            "is not the last that was sealed",
        ),
        (
            "UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state,"
            " 'UTF8'), '\"hours\":1.0', '\"hours\":9.0'), 'UTF8')"
            " WHERE notification_id = (SELECT max(position) FROM ledger.checkpoint)",
            "is not the last that was sealed",
        ),
        ("UPDATE ledger.signer SET vkey = 'a+b+c'", "no key of an Ed25519 signature"),
        (f"UPDATE ledger.signer SET vkey = '{OTHER_KEY}'", "not the key that others were told"),
        ("UPDATE ledger.signer SET secret = '\\x00'", "sealed under another master key"),
        (
            "UPDATE ledger.checkpoint SET note = (SELECT note FROM ledger.checkpoint"
            " WHERE size = 501) WHERE size = 601",
            "not of what is sealed",
        ),
    ],
)
def test_sealing_stops_at_damaged_tiles_checkpoints_events_and_keys(
    full: Ledger, folder: Path, damage: str, why: str
) -> None:
    vandalize(full.conninfo, damage)
    full.line()
    size = full.rows("SELECT max(size) AS size FROM ledger.checkpoint")
    assert seal(full.conninfo, folder) == 0
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == size
    assert why in (stop_reason(full.conninfo) or "")


@pytest.mark.parametrize(
    "state",
    ["'{}'", "'[2]'", r"'\xff'", "('{\"x\":' || repeat('[', 200000))::bytea",
     "convert_to(overlay(convert_from(state, 'UTF8') PLACING '[3' FROM 1 FOR 2), 'UTF8')"],
)  # fmt: skip
def test_an_event_that_cannot_be_read_stops_sealing(full: Ledger, folder: Path, state: str) -> None:
    full.line()
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET state = {state}"
        " WHERE notification_id = (SELECT max(notification_id) FROM ledger.ledger_events)",
    )
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) == f"the event at position {full.head()} cannot be read"
