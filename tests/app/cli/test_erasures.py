"""``ledger runs erase --from-audit`` erases again after a restore (contract, Command line)."""

import json
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.app.cli.conftest import Ledger
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import edge_of
from tests.support.facts import ORGANIZATION, fact
from tests.support.views import until

SETTINGS = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)


def entry(run: str, **more: Any) -> dict[str, Any]:
    """An entry of an audit export for the erasure of a run."""
    resource = {"type": "run", "id": run}
    return {"action": "run.erase", "outcome": "succeeded", "resource": resource, **more}


def lines(*entries: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in entries)


def test_erasures_after_the_backup_are_made_again_once_by_the_export_of_the_lost_ledger(
    server: EmbeddedPostgres,
    conninfo: str,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with edge_of(SETTINGS, conninfo) as lost:
        line = lost.fresh()
        start = fact("run.started", None, {"service_line_id": line, "input": {"secret": 1}})
        runs = [lost.accept(start | {"id": f"start-{n}"})[0]["subject"] for n in range(3)]
        for run in runs[:2]:
            lost.accept(fact("run.completed", run))
    backup = copied(server.url, "restored", conninfo_to_dict(conninfo)["dbname"])
    with backup as restored:
        with edge_of(SETTINGS, conninfo) as lost:
            token = lost.token("runs:erase", "audit:read")
            for run, status in ((runs[0], 200), (runs[2], 409)):
                answer = lost.post(f"/v1/runs/{run}/erase", token, json={"reason": "asked for"})
                assert answer.status_code == status
            params = {"organization_id": ORGANIZATION, "format": "jsonl"}
            export = lost.get("/v1/audit-logs/export", token, params=params).content
        assert export.count(b'"run.erase"') == 2
        file = tmp_path / "audit.jsonl"
        file.write_bytes(export)
        monkeypatch.setenv("LEDGER_DATABASE_URL", restored)
        first = ledger("runs", "erase", "--from-audit", str(file))
        assert (first.returncode, first.stdout) == (0, "")
        assert first.stderr == "1 erased, 0 erased already, 0 not erased\n"
        again = ledger("runs", "erase", "--from-audit", "-", stdin=export)
        assert again.returncode == 0
        assert again.stderr == "0 erased, 1 erased already, 0 not erased\n"
        with edge_of(SETTINGS, restored) as edge:
            until(lambda: edge.data(f"/v1/runs/{runs[0]}")["erased_at"], "the erasure in the views")
            views = [edge.data(f"/v1/runs/{run}") for run in runs]
            assert [one["erased_at"] is not None for one in views] == [True, False, False]
            assert [one["input"] for one in views] == [None, {"secret": 1}, {"secret": 1}]


def test_a_run_that_cannot_be_erased_is_named_and_the_others_are_erased(
    conninfo: str, ledger: Ledger
) -> None:
    with edge_of(SETTINGS, conninfo) as edge:
        line = edge.fresh()
        start = fact("run.started", None, {"service_line_id": line})
        ended, open_ = (edge.accept(start | {"id": id_})[0]["subject"] for id_ in ("a", "b"))
        edge.accept(fact("run.completed", ended))
        export = lines(entry("RUN-26-999999"), entry(open_), entry(ended, reason="because"))
        done = ledger("runs", "erase", "--from-audit", "-", stdin=export)
        assert done.returncode == 1
        assert done.stdout.splitlines() == [
            "RUN-26-999999: not_found No such run.",
            f"{open_}: invalid_state The run has not ended.",
        ]
        assert done.stderr == "1 erased, 0 erased already, 2 not erased\n"
        feed = f"/v1/events?service_line_id={line}&type=run.erased"
        # Another process wrote the event, so the views may be a moment behind.
        until(lambda: edge.data(feed), "the erasure in the feed")
        (event,) = edge.data(feed)
        assert (event["subject"]["id"], event["payload"]["reason"]) == (ended, "because")


@pytest.mark.parametrize(
    "bad",
    [b"id,action\n", b"[]\n", lines({"action": "run.erase"}), lines(entry("../../x"))],
    ids=["csv", "no object", "no outcome", "no id of a run"],
)
def test_a_file_that_is_no_audit_export_erases_nothing(
    ledger: Ledger, bad: bytes, conninfo: str
) -> None:
    done = ledger("runs", "erase", "--from-audit", "-", stdin=lines(entry("RUN-26-000001")) + bad)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "ledger: Line 2 of the file is no entry of an audit export in JSON lines.\n"
    )
