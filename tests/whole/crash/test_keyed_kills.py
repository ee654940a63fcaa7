"""API workers are killed between commit and reply; the same key still finds the first outcome.

The loops are killed before the ends of holds; each hold ends once.
"""

import contextlib
import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from ledger.engine.postgres.embedded.place import find_paths
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.log_checker import check
from tests.support.served import Served, connections, post, run_ledger
from tests.support.views import query, until

_numbers = itertools.count(1)

_OPERATED = """
SELECT originator_id, convert_from(state, 'UTF8')::jsonb #>> '{12,reason}'
FROM ledger.ledger_events WHERE topic IN ('execution.paused/1', 'execution.resumed/1')
ORDER BY notification_id
"""


class Operator(threading.Thread):
    """Pauses and resumes a line in turn, each time under a new key that is also the reason.

    A request without an answer is sent again until an answer comes.
    """

    def __init__(self, served: Served, token: str, line: str, stopping: threading.Event) -> None:
        super().__init__()
        self.served, self._token, self._line, self._stopping = served, token, line, stopping
        self.answers: dict[str, httpx.Response] = {}
        """The first answer to each key."""
        self.unanswered: set[str] = set()
        """The keys of requests that were at least once without an answer."""
        self.wrong: list[str] = []

    def run(self) -> None:
        with self.served.client(self._token) as client:
            for number in itertools.count():
                if self._stopping.is_set():
                    break
                key = f"{self._line}-{number}"
                answer = self._until_answered(client, key, number)
                self.answers[key] = answer
                if answer.status_code != 200:
                    self.wrong.append(f"{key}: {answer.status_code} {answer.text}")

    def _until_answered(self, client: httpx.Client, key: str, number: int) -> httpx.Response:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = self.send(client, key, number)
                if answer.status_code != 503:
                    return answer
            self.unanswered.add(key)

    def send(self, client: httpx.Client, key: str, number: int) -> httpx.Response:
        action = ("pause", "resume")[number % 2]
        path, headers = f"/v1/execution/{self._line}/{action}", {"idempotency-key": key}
        return client.post(path, json={"reason": key}, headers=headers)

    def send_again(self, client: httpx.Client) -> list[str]:
        """Send every request again; list the keys whose answer differs now."""
        found = []
        for key, first in self.answers.items():
            again = self.send(client, key, int(key.rsplit("-", 1)[1]))
            replayed = again.headers.get("idempotency-replayed") == "true"
            if not replayed or outcome(again) != outcome(first):
                found.append(f"{key}: {outcome(again)} after {outcome(first)}")
        return found


def outcome(answer: httpx.Response) -> tuple[Any, ...]:
    """The parts of an answer that describe the write itself."""
    data = answer.json().get("data", {})
    holds = [(hold["hold"], hold["reason"]) for hold in data.get("holds", [])]
    return answer.status_code, answer.headers["ledger-position"], data.get("state"), holds


@pytest.fixture
def manager(served: Served) -> str:
    """A token that may report, pause and resume."""
    options = ["--organization", ORGANIZATION]
    for permission in ("read", "write", "service_lines:manage"):
        options += ["--permission", permission]
    done = run_ledger(served.environment, "keys", "create", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new_line(served: Served, token: str) -> str:
    line = f"LIN-26-{next(_numbers):06d}"
    with served.client(token) as client:
        assert post(client, activation(line, "capacity")).status_code == 201
    return line


def operated(served: Served) -> dict[str, list[str]]:
    """The reasons of all pauses and resumes, by line, in log order."""
    reasons: dict[str, list[str]] = {}
    for line, reason in query(find_paths(served.data_dir).url(), _OPERATED):
        reasons.setdefault(line, []).append(reason)
    return reasons


def kill_workers(served: Served, token: str, kills: int) -> None:
    """Kill workers under load until ``kills`` requests were interrupted; check every outcome."""
    stopping = threading.Event()
    lines = [new_line(served, token) for _ in range(4)]
    operators = [Operator(served, token, line, stopping) for line in lines]
    for operator in operators:
        operator.start()
    try:
        # A kill may come when all the worker's clients are between two requests: then kill again.
        for _ in range(20 * kills):
            if sum(len(one.unanswered) for one in operators) >= kills:
                break
            await_more(operators, 40)
            # Kill a worker that has clients: all four may have connected to the same worker.
            held = connections(served)
            killed = max(held, key=held.__getitem__)
            os.kill(killed, signal.SIGKILL)
            until(partial(is_replaced, served, killed), "a successor")
    finally:
        stopping.set()
        for operator in operators:
            operator.join(40)
    assert [wrong for one in operators for wrong in one.wrong] == []
    assert sum(len(one.unanswered) for one in operators) >= kills
    found = operated(served)
    for line, operator in zip(lines, operators, strict=True):
        assert found[line] == list(operator.answers), "one event a key, in the order sent"
    with served.client(token) as client:
        assert [wrong for one in operators for wrong in one.send_again(client)] == []
    assert operated(served) == found
    assert check(find_paths(served.data_dir).url()).findings == []


def is_replaced(served: Served, killed: int) -> bool:
    """True if the killed worker is gone and its successor has started."""
    workers = served.api_workers()
    return killed not in workers and len(workers) == served.workers


def await_more(operators: list[Operator], count: int) -> None:
    """Wait until ``count`` more requests have been answered."""
    wanted = sum(len(one.answers) for one in operators) + count
    until(lambda: sum(len(one.answers) for one in operators) >= wanted, "answers")


def test_a_killed_workers_commands_are_found_under_their_keys(served: Served, manager: str) -> None:
    kill_workers(served, manager, 1)


def test_a_command_committed_but_never_answered_is_answered_when_it_is_sent_again(
    served: Served, manager: str
) -> None:
    line, body = new_line(served, manager), {"reason": "once"}
    path, key = f"/v1/execution/{line}/pause", {"idempotency-key": "k"}
    loops = served.loops()
    os.kill(loops, signal.SIGSTOP)
    try:
        # The views stand still, so the worker waits for them between commit and reply.
        with ThreadPoolExecutor() as other, served.client(manager) as client:
            request = other.submit(client.post, path, json=body, headers=key)
            until(lambda: line in operated(served), "the commit")
            assert not request.done()
            killed = served.api_workers()
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            assert isinstance(request.exception(20), httpx.TransportError)
    finally:
        os.kill(loops, signal.SIGCONT)
    # The killed workers are listed for a moment longer.
    until(lambda: len({*served.api_workers()} - {*killed}) == served.workers, "successors")
    with served.client(manager) as client:
        first, second = (client.post(path, json=body, headers=key) for _ in range(2))
    for answer in (first, second):
        assert answer.headers["idempotency-replayed"] == "true"
        assert outcome(answer)[2:] == ("paused", [("operator", "once")])
    assert first.content == second.content
    assert operated(served)[line] == ["once"]


def test_holds_whose_ends_come_after_the_loops_were_killed_end_once(
    served: Served, manager: str
) -> None:
    lines = [new_line(served, manager) for _ in range(5)]
    body = {"reason": "held", "until": (datetime.now(UTC) + timedelta(seconds=2)).isoformat()}
    ended = ["held", "until"]
    with served.client(manager) as client:
        for line in lines:
            assert client.post(f"/v1/execution/{line}/pause", json=body).status_code == 200
        os.kill(served.loops(), signal.SIGKILL)
        until(lambda: all(operated(served)[line] == ended for line in lines), "the ends", 40.0)
        for line in lines:
            assert post(client, fact("execution.checked_in", line)).status_code == 201
    assert [operated(served)[line] for line in lines] == [ended] * len(lines)
    assert check(find_paths(served.data_dir).url()).findings == []


LOCK = 4711

# The append of this line's pause waits until LOCK is free.
_STOP_AT = """
CREATE FUNCTION public.wait_for_lock() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock({lock}); RETURN NEW; END';
CREATE TRIGGER stops BEFORE INSERT ON ledger.ledger_events FOR EACH ROW
    WHEN (NEW.originator_id = '{line}') EXECUTE FUNCTION public.wait_for_lock()
"""
_WAITS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND NOT granted"


def test_a_request_for_many_lines_goes_on_after_a_kill_in_its_midst(
    served: Served, manager: str
) -> None:
    lines = [f"LIN-26-{next(_numbers):06d}" for _ in range(120)]
    path, key = "/v1/execution/pause", {"idempotency-key": "many"}
    body = {"filter": {"service_line_id": lines}, "reason": "once", "expect": len(lines)}
    url = find_paths(served.data_dir).url()
    with psycopg.connect(url, autocommit=True) as database, served.client(manager) as client:
        begun = client.post("/v1/facts", json=[activation(line, "capacity") for line in lines])
        assert {item["outcome"] for item in begun.json()["data"]} == {"recorded"}
        database.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        # The newest line is the first: the last append but one is committed, the last one waits.
        database.execute(_STOP_AT.format(lock=LOCK, line=lines[0]).encode())
        with ThreadPoolExecutor() as other:
            request = other.submit(client.post, path, json=body, headers=key)
            waits = _WAITS.format(lock=LOCK).encode()
            until(lambda: database.execute(waits).rowcount == 1, "the append that waits")
            killed = served.api_workers()
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            assert isinstance(request.exception(20), httpx.TransportError)
        # The killed worker has sent its commit already: the database must not come to it.
        ended = f"SELECT pg_terminate_backend(pid) FROM ({_WAITS.format(lock=LOCK)}) AS waits"
        assert database.execute(ended.encode()).fetchall() == [(True,)]
        database.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
        database.execute(b"DROP FUNCTION public.wait_for_lock() CASCADE")
    done = operated(served)
    assert [line for line in lines if line in done] == lines[20:]
    until(lambda: len({*served.api_workers()} - {*killed}) == served.workers, "successors")
    with served.client(manager) as client:
        first, second = (client.post(path, json=body, headers=key) for _ in range(2))
    outcomes = [(each["service_line_id"], each["outcome"]) for each in first.json()["data"]]
    assert outcomes == [(line, "paused") for line in reversed(lines)]
    assert second.content == first.content
    assert [answer.headers.get("idempotency-replayed") for answer in (first, second)] == [
        None,
        "true",
    ]
    done = operated(served)
    assert [done[line] for line in lines] == [["once"]] * len(lines)


@pytest.mark.crash
def test_many_killed_workers_commands_are_found_under_their_keys(
    served: Served, manager: str, pytestconfig: pytest.Config
) -> None:
    kill_workers(served, manager, pytestconfig.getoption("--crash-rounds"))
