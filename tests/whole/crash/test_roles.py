"""The roles of nodes, as real services: which processes run, which loops lead, what is answered."""

import os
from pathlib import Path

import httpx
import pytest

from tests.support.facts import LINE, activation, fact
from tests.support.nodes import LOOPS, leaders, node_id, two_nodes
from tests.support.served import Served, post, run_ledger, serving_at
from tests.support.views import query, until


def kinds(served: Served) -> set[str]:
    """The kinds of a node's processes."""
    names = ("loops", "dispatch", "sealer", "api")
    return {name for name in names if served.named(b"ledger-" + name.encode())}


def test_an_api_node_leads_nothing_and_a_loops_node_answers_probes_only(
    conninfo: str, tmp_path: Path
) -> None:
    with two_nodes(conninfo, tmp_path, ("loops", "api")) as (loops, api):
        assert kinds(loops) == {"loops", "dispatch", "sealer", "api"}
        assert kinds(api) == {"sealer", "api"}
        with api.client(api.token()) as client:
            assert post(client, activation()).status_code == 201
            assert post(client, fact("execution.checked_in", LINE, {})).status_code == 201
            assert client.get(f"/v1/execution/{LINE}").status_code == 200
        assert set(leaders(conninfo)) == LOOPS
        assert set(leaders(conninfo).values()) == {node_id(loops)}
        until(lambda: query(conninfo, "SELECT 1 FROM ledger.checkpoint"), "the sealing")
        with loops.client(api.token()) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            until(lambda: client.get("/readyz").status_code == 200, "readiness")
            assert "ledger_clock_skew_seconds" in client.get("/metrics").text
            for path in (
                "/",
                "/ui",
                "/docs",
                "/openapi.json",
                f"/v1/execution/{LINE}",
                "/v1/events",
            ):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
                assert answer.headers["content-type"] == "application/problem+json"
            assert post(client, activation()).status_code == 404


def test_a_node_whose_loops_alone_run_accepts_no_heartbeats_for_those_that_do_not(
    conninfo: str, tmp_path: Path
) -> None:
    """Time in which no node takes heartbeats does not count for leases."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": "0f" * 32}
    with serving_at(tmp_path / "data", workers=1, role="loops", **environment) as served:
        until(lambda: httpx.get(f"{served.address}/readyz").status_code == 200, "readiness")
        written = "SELECT written_at FROM ledger.append_probe"
        before = query(conninfo, written)
        until(lambda: query(conninfo, written) != before, "a probe")
        statement = "SELECT listened_at > now() - interval '1 minute' FROM ledger.listening"
        assert query(conninfo, statement) in ([(False,)], [(None,)], [])


def test_a_role_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    refused = run_ledger(
        {**os.environ, "LEDGER_DATA_DIR": str(tmp_path)}, "serve", "--role", "king"
    )
    assert refused.returncode == 2
    assert "--role" in refused.stderr


@pytest.mark.parametrize("role", ["all", "api", "loops"])
def test_a_node_of_each_role_ends_without_a_trace(conninfo: str, tmp_path: Path, role: str) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": "0f" * 32}
    with serving_at(tmp_path / "data", workers=1, role=role, **environment) as served:
        served.process.terminate()
        assert served.process.wait(20) == 0
        assert served.processes() == []
        assert "Traceback" not in served.output
