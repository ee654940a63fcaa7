"""The dispatcher of a real service is killed under load: each event arrives at least once."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation
from tests.support.load import Load
from tests.support.log_checker import check
from tests.support.model import model_of
from tests.support.rebuilding import verify_all
from tests.support.receiver import Answer, Receiver, Request
from tests.support.served import Served, post, serving_at
from tests.support.views import head, query, until
from tests.support.webhooks import body_of, received

ENVIRONMENT = {
    "LEDGER_WEBHOOK_ALLOW_PRIVATE": "true",
    # Enough retries that no delivery is given up.
    "LEDGER_WEBHOOK_RETRY_SECONDS": ",".join(["0.2"] * 20),
}


class Flaky:
    """A receiver that sometimes answers 500 and is sometimes slow: kills meet every stage."""

    def __init__(self) -> None:
        self._dice = random.Random(3)

    def __call__(self, request: Request) -> Answer:
        luck = self._dice.random()
        return Answer(500 if luck < 0.1 else 200, delay_seconds=0.05 if luck > 0.9 else 0)


def create(client: Any, url: str, types: list[str]) -> tuple[str, str]:
    """Create an endpoint; return its id and secret."""
    answer = client.post("/v1/webhooks", json={"url": url, "event_types": types})
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    return data["id"], data["secret"]


@pytest.fixture
def served(conninfo: str, tmp_path: Path) -> Iterator[Served]:
    """A service on a database that outlives it."""
    environment = ENVIRONMENT | {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", workers=1, **environment) as service:
        yield service


def kill_dispatchers(served: Served, conninfo: str, rounds: int) -> None:
    dice, pause = random.Random(), threading.Event()
    with Receiver(Flaky()) as receiver:
        token = served.token("webhooks:manage")
        with served.client(token) as client:
            assert post(client, activation(model="capacity")).status_code == 201
            made = [
                create(client, f"{receiver.url}/{n}", types)
                for n, types in enumerate((["*"], ["execution.checked_in"]))
            ]
        with Load(served, token, 2, reads=False) as load:
            for _ in range(rounds):
                load.await_more(20)
                receiver.await_count(len(receiver.requests) + 40, 30)
                # The kill must come at a random moment.
                pause.wait(dice.uniform(0, 0.3))
                killed = served.dispatcher()
                os.kill(killed, signal.SIGKILL)
                until(lambda gone=killed: successor(served, gone), "the successor")  # type: ignore[misc]
        for number, (endpoint, secret) in enumerate(made):
            await_delivered(conninfo, endpoint)
            requests = [r for r in receiver.requests if r.path == f"/{number}"]
            for request in requests[-20:]:
                body_of(request, secret)
            expected = model_of(conninfo).due_to(endpoint)
            assert received(requests) == expected
            assert len(expected) >= 20 * rounds
        assert load.statuses.keys() == {201}
        assert check(conninfo).findings == []
        assert verify_all(conninfo) == []


def successor(served: Served, killed: int) -> bool:
    """True if another dispatcher runs than the one that was killed."""
    found = served.named(b"ledger-dispatch")
    return bool(found) and killed not in found


def await_delivered(conninfo: str, endpoint: str) -> None:
    """Wait until all of an endpoint's events in the log are delivered."""
    statement = """SELECT count(*) FROM ledger.webhook_message AS m
        LEFT JOIN ledger.delivery AS d USING (endpoint_id, position)
        WHERE m.endpoint_id = %s AND d.status IS DISTINCT FROM 'delivered'"""
    position = head(conninfo)
    reached = "SELECT position FROM ledger.projection WHERE name = 'webhook'"
    until(lambda: query(conninfo, reached)[0][0] >= position, "the view")
    until(lambda: query(conninfo, statement, endpoint)[0][0] == 0, "the last delivery", 60)


def test_every_number_arrives_though_the_dispatcher_is_killed(
    served: Served, conninfo: str
) -> None:
    kill_dispatchers(served, conninfo, 1)


@pytest.mark.crash
def test_every_number_arrives_though_the_dispatcher_is_killed_many_times(
    served: Served, conninfo: str, pytestconfig: pytest.Config
) -> None:
    kill_dispatchers(served, conninfo, pytestconfig.getoption("--crash-rounds"))


def test_a_stopped_service_finishes_and_records_its_deliveries(
    served: Served, conninfo: str
) -> None:
    with Receiver(lambda _: Answer(delay_seconds=1.0)) as receiver:
        token = served.token("webhooks:manage")
        with served.client(token) as client:
            create(client, receiver.url, ["execution.started"])
            assert post(client, activation(model="capacity")).status_code == 201
        receiver.await_count(1)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        assert query(conninfo, "SELECT status FROM ledger.delivery") == [("delivered",)]
        assert len(receiver.requests) == 1
