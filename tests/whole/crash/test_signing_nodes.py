"""Two nodes and a failover that loses events: no second note contradicts one that was signed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from ledger.engine.postgres.timing import LIVING_SECONDS
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation, fact
from tests.support.failover import Failover, failover_in
from tests.support.served import Served, post, run_ledger, serving_at
from tests.support.verifier import verifier
from tests.support.views import until

pytestmark = pytest.mark.crash

LINE = "LIN-26-000042"


@pytest.fixture
def cluster(folder: Path, template: Path) -> Iterator[Failover]:
    with failover_in(folder, template) as cluster:
        prepare_database(Settings(master_key=MASTER_KEY), cluster.url)
        yield cluster


def select(cluster: Failover, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(cluster.url, row_factory=tuple_row) as connection:
        return connection.execute(statement.encode()).fetchall()


def checkpoint_of(node: Served, origin: str = "") -> list[str]:
    """The lines of the newest checkpoint that a node has seen."""
    found = list((node.data_dir / "sealed").glob(f"*{origin}.checkpoint"))
    return found[0].read_text().split("\n") if found else ["", "0"]


def size_on(node: Served, origin: str = "") -> int:
    return int(checkpoint_of(node, origin)[1])


def ready(node: Served) -> Any:
    return httpx.get(f"{node.address}/readyz").json()


def report(client: httpx.Client, count: int) -> None:
    for _ in range(count):
        answer = post(client, fact("execution.checked_in", LINE, {"hours": 1}))
        assert answer.status_code == 201, answer.text


def test_a_failover_that_loses_what_was_signed_stops_signing_until_an_operator_adopts_it(
    folder: Path, cluster: Failover
) -> None:
    settings = {"LEDGER_DATABASE_URL": cluster.url, "LEDGER_MASTER_KEY": MASTER_KEY}
    with (
        serving_at(folder / "a", workers=1, **settings) as a,
        serving_at(folder / "c", workers=1, **settings) as c,
    ):
        with serving_at(folder / "b", workers=1, **settings) as b:
            token = b.token("audit:read")
            with b.client(token) as client:
                post(client, activation(line=LINE, model="capacity"))
                report(client, 3)
                until(lambda: size_on(b) >= 5, "the witness of the second node", 40)
                until(
                    lambda: "\n5\n" in client.get("/v1/log/checkpoint").text,
                    "a checkpoint that is shown",
                    10,
                )
        # Node b is away, the standby falls behind, and node a signs events that will be lost.
        cluster.copy("standby")
        with a.client(token) as client:
            until(lambda: ready(a)["status"] == "ok", "the database")
            report(client, 10)
        until(lambda: size_on(a) == 15, "the checkpoint that will be lost", 40)
        lost = checkpoint_of(a)
        for node in (a, c):
            os.kill(node.sealer(), signal.SIGSTOP)
        lost_at = time.monotonic()
        cluster.lose_to("standby")
        # Node b has an older witness. A node with an empty directory, d, has none.
        with (
            serving_at(folder / "b", workers=1, **settings) as b,
            serving_at(folder / "d", workers=1, **settings) as d,
            b.client(token) as client,
        ):
            os.kill(a.sealer(), signal.SIGCONT)
            report(client, 20)
            until(lambda: ready(b)["status"] == "degraded", "a stop", 20)
            assert select(cluster, "SELECT max(size) FROM ledger.checkpoint") == [(5,)]
            for node in (a, b, d):
                assert ready(node)["sealing"]["stopped"] is True
                assert "shorter" in ready(node)["sealing"]["why"]
                assert "ledger_sealing_stopped 1.0" in httpx.get(f"{node.address}/metrics").text
            os.kill(c.sealer(), signal.SIGCONT)
            old_key = client.get("/v1/log/key").text
            old = client.get("/v1/log/checkpoint").text
            adopt(a)
            # PostgreSQL is new to all nodes: an adoption does not shorten their wait for reports.
            until(
                lambda: "/2" in client.get("/v1/log/checkpoint").text.split("\n")[0],
                "a new origin",
                LIVING_SECONDS + 10,
            )
            assert time.monotonic() - lost_at >= LIVING_SECONDS
            assert_goes_on(client, b, old_key, old, lost)
            assert run_ledger(b.environment, "seal", "adopt", "--reason", "again").returncode == 1
            verified = run_ledger(b.environment, "verify")
            assert verified.returncode == 0, verified.stdout + verified.stderr
            assert "10 of 15 sealed events lost: adopted by" in verified.stdout
            until(lambda: size_on(d, "-2") >= 25, "the witness of the new node", 10)


def adopt(node: Served) -> None:
    done = run_ledger(node.environment, "seal", "adopt", "--reason", "the standby was behind")
    assert done.returncode == 0, done.stderr
    status = run_ledger(node.environment, "seal", "status")
    assert status.returncode == 0
    assert "the standby was behind" in status.stdout


def assert_goes_on(
    client: httpx.Client, node: Served, old_key: str, old: str, lost: list[str]
) -> None:
    """A new origin names the lost checkpoint, and continues what is left of the old one."""
    keys = client.get("/v1/log/key").text
    assert keys.splitlines()[1:] == [old_key.strip()]
    new = client.get("/v1/log/checkpoint").text
    assert new.split("\n")[3] == f"after {' '.join(lost[:3])}"
    size, _ = verifier.open_checkpoint(new, keys)
    assert size >= 25
    proof = client.get(f"/v1/log/proof/consistency?from=5&to={size}")
    assert verifier.proves_consistency(keys, old, new, proof.text)
    assert (
        json.loads(client.get(f"/v1/log/proof/consistency?from=5&to={size + 100}").text)["code"]
        == "invalid_request"
    )
    until(lambda: ready(node)["status"] == "ok", "signing", 10)


def test_a_failover_without_loss_and_a_replaced_node_need_no_operator(
    folder: Path, cluster: Failover
) -> None:
    settings = {"LEDGER_DATABASE_URL": cluster.url, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(folder / "a", workers=1, **settings) as a:
        token = a.token("audit:read")
        with a.client(token) as client:
            with serving_at(folder / "b", workers=1, **settings) as b:
                post(client, activation(line=LINE, model="capacity"))
                report(client, 3)
                until(lambda: size_on(b) >= 5, "the witness of the second node", 40)
                cluster.copy("standby")
                cluster.lose_to("standby")
                until(lambda: ready(a)["status"] == "ok", "the database")
                report(client, 3)
                until(
                    lambda: "\n8\n" in client.get("/v1/log/checkpoint").text,
                    "a checkpoint that is shown after the failover",
                    40,
                )
            with serving_at(folder / "new", workers=1, **settings) as new:
                until(lambda: size_on(new) == 8, "the witness of the new node", 20)
                report(client, 1)
                until(
                    lambda: "\n9\n" in client.get("/v1/log/checkpoint").text,
                    "a checkpoint that the new node has reported",
                    20,
                )
        assert ready(a)["status"] == "ok"
        assert select(cluster, "SELECT count(*) FROM ledger.former_origin") == [(0,)]
