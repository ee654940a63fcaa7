"""Payloads of runs are encrypted in every table, bound to their field, and digested with a key."""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from ledger.app.composition.database import ConfigurationError, open_vault, prepare_database
from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.log.vault import CannotOpen, RunKey, Vault, content_digest
from ledger.engine.writer.request import Receipt
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import ORGANIZATION, encode, fact
from tests.support.ledger import REPORTER, Ledger, new_id
from tests.support.plaintext import sealed_payloads, stored_rows, tables_with

CANARY = "CANARY-7f3a"
OTHER_KEY = "ab" * 32


@dataclasses.dataclass
class CanaryRun:
    """A run whose payloads all hold the canary, and the facts that reported the run."""

    run: str
    start: dict[str, Any]
    end: dict[str, Any]


@pytest.fixture
def canary_run(ledger: Ledger) -> CanaryRun:
    line, run = ledger.line(), new_id("RUN")
    data = {"service_line_id": line, "input": {"prompt": CANARY + "-input"}}
    start = fact("run.requested", run, data)
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
    return CanaryRun(run, start, end)


def run_key(ledger: Ledger, run: str) -> RunKey:
    (row,) = ledger.rows("SELECT organization_id, wrapped FROM ledger.run_key WHERE run_id=%s", run)
    return open_vault(ledger.settings).unwrap(row["wrapped"], row["organization_id"], run)


def ciphertexts(ledger: Ledger, run: str) -> dict[str, bytes]:
    """The ciphertexts of a run's payloads in the log, by field."""
    return dict(sealed_payloads(ledger.conninfo, run))


def test_no_table_holds_a_payload_in_plain_text(ledger: Ledger, canary_run: CanaryRun) -> None:
    stored = stored_rows(ledger.conninfo)
    # The search does find stored text: these tables hold the run's id in plain text.
    assert any(canary_run.run.encode() in row for row in stored["ledger.ledger_events"])
    assert any(canary_run.run.encode() in row for row in stored["ledger.run_g1"])
    assert tables_with(stored, CANARY) == []


def test_a_stored_payload_opens_to_the_payload_sent(ledger: Ledger, canary_run: CanaryRun) -> None:
    row = ciphertexts(ledger, canary_run.run)
    key = run_key(ledger, canary_run.run)
    assert key.open("input", row["input"]) == encode({"prompt": CANARY + "-input"}).replace(
        b": ", b":"
    )
    assert key.open("output", row["output"]) == encode([CANARY + "-output"])
    assert CANARY.encode() + b"-error" in key.open("error", row["error"])


def test_a_moved_or_altered_ciphertext_does_not_open(ledger: Ledger, canary_run: CanaryRun) -> None:
    row = ciphertexts(ledger, canary_run.run)
    key, sealed = run_key(ledger, canary_run.run), row["input"]
    for field in ("output", "error"):
        with pytest.raises(CannotOpen):
            key.open(field, sealed)
    # The version of the event is bound, too.
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


def test_a_ciphertext_does_not_open_with_the_key_of_another_run(
    ledger: Ledger, canary_run: CanaryRun
) -> None:
    row = ciphertexts(ledger, canary_run.run)
    other = ledger.run(ledger.line())
    with pytest.raises(CannotOpen):
        run_key(ledger, other).open("input", row["input"])
    # The same key for another run or organization does not open the ciphertext either.
    for organization, run in ((ORGANIZATION, other), ("ORG-26-000002", canary_run.run)):
        with pytest.raises(CannotOpen):
            RunKey(b"\1" * 32, organization, run).open(
                "input", RunKey(b"\1" * 32, ORGANIZATION, canary_run.run).seal("input", 1, b"1")
            )


def test_a_wrapped_key_opens_for_its_run_and_master_key_only(
    ledger: Ledger, canary_run: CanaryRun
) -> None:
    (row,) = ledger.rows("SELECT wrapped FROM ledger.run_key WHERE run_id = %s", canary_run.run)
    wrapped, vault = row["wrapped"], Vault(bytes.fromhex(MASTER_KEY))
    vault.unwrap(wrapped, ORGANIZATION, canary_run.run)
    with pytest.raises(CannotOpen):
        vault.unwrap(wrapped, ORGANIZATION, new_id("RUN"))
    with pytest.raises(CannotOpen):
        vault.unwrap(wrapped, "ORG-26-000002", canary_run.run)
    with pytest.raises(CannotOpen):
        Vault(bytes.fromhex(OTHER_KEY)).unwrap(wrapped, ORGANIZATION, canary_run.run)


def test_a_ledger_does_not_start_with_another_master_key(conninfo: str) -> None:
    prepare_database(Settings(master_key=MASTER_KEY), conninfo)
    with pytest.raises(ConfigurationError):
        prepare_database(Settings(master_key=OTHER_KEY), conninfo)
    with pytest.raises(ConfigurationError):
        open_vault(Settings(master_key="0f"))


def test_an_unreadable_master_key_is_reported_in_one_line(tmp_path: Path) -> None:
    """The test uses a directory as the file: root can read every file, but no directory."""
    (tmp_path / "master.key").mkdir()
    with pytest.raises(ConfigurationError, match="The master key cannot be read: Is a directory"):
        open_vault(Settings(data_dir=tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="The master key cannot be read: "):
        open_vault(Settings(data_dir=tmp_path / "file"))


def test_the_stored_fingerprint_contains_no_part_of_the_master_key(conninfo: str) -> None:
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        row = connection.execute(
            "SELECT value FROM ledger.setting WHERE name = 'master_key'"
        ).fetchone()
    assert row is not None
    assert row["value"] == Vault(bytes.fromhex(MASTER_KEY)).fingerprint
    assert MASTER_KEY[:16] not in row["value"]


def test_the_stored_digest_of_a_fact_about_a_run_is_keyed_with_the_run_key(
    ledger: Ledger, canary_run: CanaryRun
) -> None:
    key = run_key(ledger, canary_run.run)
    for event in (canary_run.start, canary_run.end):
        parsed = envelope.from_structured(encode(event))
        assert isinstance(parsed, envelope.Fact)
        facts = [stored["state"].get("fact") for stored in ledger.events(canary_run.run)]
        (digest,) = [fact["digest"] for fact in facts if fact and fact["id"] == event["id"]]
        assert base64.b64decode(digest) == key.digest(parsed.content)
        assert base64.b64decode(digest) != content_digest(parsed.content)


def test_facts_of_a_run_without_a_key_are_not_compared_and_keep_no_payload_and_no_hash_of_it(
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
    # Another process decides, because the writer of this process still has the key in memory.
    with writing(ledger.settings, ledger.conninfo, ledger.clock) as other:
        outcomes = other.submit([command_of(item, REPORTER) for item in parsed]).result(20)
    receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
    assert [receipt.duplicate for receipt in receipts] == [True, True, False, True, True]
    assert {receipt.event_ids for receipt in receipts[:2]} == {first.event_ids}
    ended = ledger.events(run)[-1]["state"]
    assert ended["body"] == {"tokens_used": 7, "duration_ms": ended["body"]["duration_ms"]}
    digest = base64.b64decode(ended["fact"]["digest"])
    assert len(digest) == 32
    content = parsed[2]
    assert isinstance(content, envelope.Fact)
    assert digest != content_digest(content.content)


@pytest.mark.parametrize("value", [0, False, "", [], {}, 1e300, "é\u2028😀", [[[None]]]])
def test_a_payload_decrypts_to_an_equal_json_value(ledger: Ledger, value: Any) -> None:
    run = new_id("RUN")
    ledger.accept(fact("run.started", run, {"service_line_id": ledger.line(), "input": value}))
    ledger.catch_up()
    row = ciphertexts(ledger, run)
    opened = run_key(ledger, run).open("input", row["input"])
    decoded = ledger.rows("SELECT %s::json AS value", opened.decode())[0]["value"]
    assert decoded == value
    assert type(decoded) is type(value)


def test_equal_payloads_have_unequal_ciphertexts(ledger: Ledger, canary_run: CanaryRun) -> None:
    key = run_key(ledger, canary_run.run)
    assert key.seal("input", 1, b"1") != key.seal("input", 1, b"1")
