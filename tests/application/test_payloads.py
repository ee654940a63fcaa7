"""Runs' payloads: encrypted wherever they lie, bound to their place, digested under their key."""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from ledger.application.report import command_of
from ledger.intake import envelope
from ledger.intake.request import Receipt
from ledger.log.vault import CannotOpen, RunKey, Vault, content_digest
from ledger.service.composition.database import ConfigurationError, open_vault, prepare_database
from ledger.service.composition.writing import writing
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.support.canary import stored_rows, tables_with
from tests.support.facts import ORGANIZATION, encode, fact
from tests.support.ledger import REPORTER, Ledger, new_id

CANARY = "CANARY-7f3a"
OTHER_KEY = "ab" * 32


@dataclasses.dataclass
class Told:
    """A run whose payloads all hold the canary, and the facts that told of it."""

    run: str
    start: dict[str, Any]
    end: dict[str, Any]


@pytest.fixture
def told(ledger: Ledger) -> Told:
    line, run = ledger.line(), new_id("RUN")
    given = {"service_line_id": line, "input": {"prompt": CANARY + "-input"}}
    start = fact("run.requested", run, given)
    end = fact(
        "run.failed",
        run,
        {
            "error": {"code": CANARY + "-code", "message": CANARY + "-error"},
            "output": [CANARY + "-output"],
        },
    )
    ledger.accept(start, fact("run.started", run), end)
    ledger.catch_up()
    return Told(run, start, end)


def run_key(ledger: Ledger, run: str) -> RunKey:
    (row,) = ledger.rows("SELECT organization_id, wrapped FROM ledger.run_key WHERE run_id=%s", run)
    return open_vault(ledger.settings).unwrap(row["wrapped"], row["organization_id"], run)


def ciphertexts(ledger: Ledger, run: str) -> dict[str, bytes]:
    """What the view keeps of a run's payloads."""
    rows = ledger.rows(
        "SELECT input, output, error FROM ledger.run_version WHERE run_id = %s ORDER BY position",
        run,
    )
    return {name: row[name] for row in rows for name in row if row[name] is not None}


def test_no_payload_lies_in_the_clear_in_any_table(ledger: Ledger, told: Told) -> None:
    stored = stored_rows(ledger.conninfo)
    # What is searched is what is there: the run's id is found where its payloads are not.
    assert any(told.run.encode() in row for row in stored["ledger.ledger_events"])
    assert any(told.run.encode() in row for row in stored["ledger.run_g1"])
    assert tables_with(stored, CANARY) == []


def test_what_is_stored_opens_to_what_was_sent(ledger: Ledger, told: Told) -> None:
    row = ciphertexts(ledger, told.run)
    key = run_key(ledger, told.run)
    assert key.open("input", row["input"]) == encode({"prompt": CANARY + "-input"}).replace(
        b": ", b":"
    )
    assert key.open("output", row["output"]) == encode([CANARY + "-output"])
    assert CANARY.encode() + b"-error" in key.open("error", row["error"])


def test_a_ciphertext_moved_elsewhere_does_not_open(ledger: Ledger, told: Told) -> None:
    row = ciphertexts(ledger, told.run)
    key, sealed = run_key(ledger, told.run), row["input"]
    for field in ("output", "error"):
        with pytest.raises(CannotOpen):
            key.open(field, sealed)
    # Of another event: the version is bound too.
    with pytest.raises(CannotOpen):
        key.open("input", (2).to_bytes(8, "big") + sealed[8:])
    for index in (0, 8, 20, 52, len(sealed) - 1):
        altered = bytearray(sealed)
        altered[index] ^= 1
        with pytest.raises(CannotOpen):
            key.open("input", bytes(altered))
    for cut in (b"", sealed[:20], sealed[:52], sealed[:-1]):
        with pytest.raises(CannotOpen):
            key.open("input", cut)


def test_another_runs_key_does_not_open(ledger: Ledger, told: Told) -> None:
    row = ciphertexts(ledger, told.run)
    other = ledger.run(ledger.line())
    with pytest.raises(CannotOpen):
        run_key(ledger, other).open("input", row["input"])
    # The same key under another run's or organization's name does not either.
    for organization, run in ((ORGANIZATION, other), ("ORG-26-000002", told.run)):
        with pytest.raises(CannotOpen):
            RunKey(b"\1" * 32, organization, run).open(
                "input", RunKey(b"\1" * 32, ORGANIZATION, told.run).seal("input", 1, b"1")
            )


def test_a_wrapped_key_opens_for_its_run_and_master_key_only(ledger: Ledger, told: Told) -> None:
    (row,) = ledger.rows("SELECT wrapped FROM ledger.run_key WHERE run_id = %s", told.run)
    wrapped, vault = row["wrapped"], Vault(bytes.fromhex(MASTER_KEY))
    vault.unwrap(wrapped, ORGANIZATION, told.run)
    with pytest.raises(CannotOpen):
        vault.unwrap(wrapped, ORGANIZATION, new_id("RUN"))
    with pytest.raises(CannotOpen):
        vault.unwrap(wrapped, "ORG-26-000002", told.run)
    with pytest.raises(CannotOpen):
        Vault(bytes.fromhex(OTHER_KEY)).unwrap(wrapped, ORGANIZATION, told.run)


def test_another_master_key_refuses_to_start(conninfo: str) -> None:
    prepare_database(Settings(master_key=MASTER_KEY), conninfo)
    with pytest.raises(ConfigurationError):
        prepare_database(Settings(master_key=OTHER_KEY), conninfo)
    with pytest.raises(ConfigurationError):
        open_vault(Settings(master_key="0f"))


def test_a_master_key_that_cannot_be_read_is_said_in_a_line(tmp_path: Path) -> None:
    """A directory cannot be read by root either, whom no permission keeps out."""
    (tmp_path / "master.key").mkdir()
    with pytest.raises(ConfigurationError, match="The master key cannot be read: Is a directory"):
        open_vault(Settings(data_dir=tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="The master key cannot be read: "):
        open_vault(Settings(data_dir=tmp_path / "file"))


def test_the_fingerprint_tells_nothing_of_the_key(conninfo: str) -> None:
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        row = connection.execute("SELECT value FROM ledger.setting").fetchone()
    assert row is not None
    assert row["value"] == Vault(bytes.fromhex(MASTER_KEY)).fingerprint
    assert MASTER_KEY[:16] not in row["value"]


def test_a_run_facts_digest_is_keyed_everywhere(ledger: Ledger, told: Told) -> None:
    key = run_key(ledger, told.run)
    for event in (told.start, told.end):
        parsed = envelope.from_structured(encode(event))
        assert isinstance(parsed, envelope.Fact)
        (row,) = ledger.rows("SELECT digest, run_id FROM ledger.fact WHERE fact_id=%s", event["id"])
        assert row == {"digest": key.digest(parsed.content), "run_id": told.run}
        assert row["digest"] != content_digest(parsed.content)
    stored = ledger.events(told.run)[0]["state"]["fact"]
    parsed = envelope.from_structured(encode(told.start))
    assert isinstance(parsed, envelope.Fact)
    assert base64.b64decode(stored["digest"]) == key.digest(parsed.content)


def test_without_its_key_nothing_of_a_run_is_compared_and_nothing_more_is_kept(
    ledger: Ledger,
) -> None:
    run = new_id("RUN")
    start = fact("run.started", run, {"service_line_id": ledger.line(), "input": CANARY})
    (first,) = ledger.accept(start)
    destroy = "UPDATE ledger.run_key SET wrapped = NULL, destroyed_at = now() WHERE run_id = %s"
    ledger.rows(f"{destroy} RETURNING 1", run)
    end = fact("run.failed", run, {"output": CANARY, "error": {"code": CANARY}, "tokens_used": 7})
    again = [start, start | {"data": {}}, end, end, end | {"data": {"output": 1}}]
    parsed = [envelope.from_structured(encode(event)) for event in again]
    # Another process: this one's still holds the key in memory.
    with writing(ledger.settings, ledger.conninfo, ledger.clock) as other:
        outcomes = other.submit([command_of(one, REPORTER) for one in parsed]).result(20)
    receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    assert [one.duplicate for one in receipts] == [True, True, False, True, True]
    assert {one.event_ids for one in receipts[:2]} == {first.event_ids}
    ended = ledger.events(run)[-1]["state"]
    assert ended["body"] == {"tokens_used": 7, "duration_ms": ended["body"]["duration_ms"]}
    (row,) = ledger.rows("SELECT digest FROM ledger.fact WHERE fact_id = %s", end["id"])
    assert len(row["digest"]) == 32
    content = parsed[2]
    assert isinstance(content, envelope.Fact)
    assert row["digest"] != content_digest(content.content)


@pytest.mark.parametrize("value", [0, False, "", [], {}, 1e300, "é\u2028😀", [[[None]]]])
def test_any_payload_comes_back_by_value(ledger: Ledger, value: Any) -> None:
    run = new_id("RUN")
    ledger.accept(fact("run.started", run, {"service_line_id": ledger.line(), "input": value}))
    ledger.catch_up()
    row = ciphertexts(ledger, run)
    opened = run_key(ledger, run).open("input", row["input"])
    shown = ledger.rows("SELECT %s::json AS value", opened.decode())[0]["value"]
    assert shown == value
    assert type(shown) is type(value)


def test_equal_payloads_have_unequal_ciphertexts(ledger: Ledger, told: Told) -> None:
    key = run_key(ledger, told.run)
    assert key.seal("input", 1, b"1") != key.seal("input", 1, b"1")
