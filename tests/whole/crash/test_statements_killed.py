"""API workers are killed while they issue statements: a statement is whole or absent, and the same
Idempotency-Key gives one statement.
"""

import contextlib
import hashlib
import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from ledger.app.composition.verification import compare
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.facts import activation, fact
from tests.support.log_checker import check
from tests.support.served import Served, post
from tests.support.views import query, until

PATH = "/v1/statements"
APRIL = {"from": "2026-03-01", "to": "2026-04-01", "by_resource": True}
LOCK = 4712

# The insert of a statement's document, or of its event, waits until LOCK is free.
_STOP = f"""
CREATE FUNCTION public.wait_for_statement() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock({LOCK}); RETURN NEW; END';
CREATE TRIGGER stops BEFORE INSERT ON ledger.{{table}} FOR EACH ROW
    WHEN (NEW.{{column}} LIKE '{{begin}}%') EXECUTE FUNCTION public.wait_for_statement()
"""
_WAITS = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {LOCK} AND NOT granted"
_DOCUMENTS = "SELECT encode(document_sha256, 'hex') FROM ledger.statement_document"
_EVENTS = """
SELECT convert_from(state, 'UTF8')::jsonb #>> '{12,document_sha256}'
FROM ledger.ledger_events WHERE topic = 'statement.issued/1'
"""

_keys = itertools.count(1)


@pytest.fixture(scope="module")
def token(served: Served) -> str:
    """A token that may issue statements, of a ledger with a line that has hours."""
    token = served.token("statements:issue")
    with served.client(token) as client:
        assert post(client, activation(time="2026-03-01T00:00:00Z")).status_code == 201
        hours = fact("execution.checked_in", "LIN-26-000001", {"hours": 2, "resource_id": "ada"},
                     time="2026-03-10T00:00:00Z")  # fmt: skip
        assert post(client, hours).status_code == 201
    return token


def url(served: Served) -> str:
    return find_paths(served.data_dir).url()


def kill_workers(served: Served) -> None:
    for worker in served.api_workers():
        os.kill(worker, signal.SIGKILL)


def issue(client: httpx.Client, key: str) -> httpx.Response:
    """Issue under a key, until an answer comes."""
    deadline = time.monotonic() + 40
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = client.post(PATH, json=APRIL, headers={"idempotency-key": key})
            if answer.status_code != 503:
                assert answer.status_code == 201, answer.text
                return answer
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_whole(served: Served, client: httpx.Client) -> list[str]:
    """The ids of all statements: each has its document, whose bytes have the sealed hash."""
    rows: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = client.get(PATH, params={"limit": 100, **cursor}).json()
        rows += page["data"]
        if not page["meta"]["has_more"]:
            break
        cursor = {"cursor": page["meta"]["cursor"]}
    for row in rows:
        octets = client.get(f"{PATH}/{row['id']}").content
        assert hashlib.sha256(octets).hexdigest() == row["document_sha256"]
    issued = sorted(hash_ for (hash_,) in query(url(served), _EVENTS))
    assert issued == sorted(row["document_sha256"] for row in rows)
    assert {*issued} <= {hash_ for (hash_,) in query(url(served), _DOCUMENTS)}
    compare(url(served), pytest.fail, lambda *_: None)
    return [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("table", "column", "begin", "more"),
    [
        ("statement_document", "organization_id", "ORG-", 0),
        ("ledger_events", "originator_id", "STM-", 1),
    ],
    ids=["before its document is stored", "between document and event"],
)
def test_a_statement_whose_worker_is_killed_is_absent_and_is_issued_once_when_it_is_sent_again(
    served: Served, token: str, table: str, column: str, begin: str, more: int
) -> None:
    key = f"key-{next(_keys)}"
    with served.client(token) as client:
        before = assert_whole(served, client)
    documents = len(query(url(served), _DOCUMENTS))
    with psycopg.connect(url(served), autocommit=True) as database:
        database.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        stop = _STOP.format(table=table, column=column, begin=begin)
        database.execute(stop.encode())
        try:
            with ThreadPoolExecutor() as other, served.client(token) as client:
                headers = {"idempotency-key": key}
                request = other.submit(client.post, PATH, json=APRIL, headers=headers)
                until(lambda: database.execute(_WAITS.encode()).rowcount == 1, "the insert")
                kill_workers(served)
                assert isinstance(request.exception(20), httpx.TransportError)
            # The killed worker has sent its commit already: the database must not come to it.
            ended = f"SELECT pg_terminate_backend(pid) FROM ({_WAITS}) AS waits"
            assert database.execute(ended.encode()).fetchall() == [(True,)]
        finally:
            database.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
            database.execute(b"DROP FUNCTION public.wait_for_statement() CASCADE")
    assert len(query(url(served), _DOCUMENTS)) == documents + more
    with served.client(token) as client:
        until(lambda: is_served(client), "a worker")
        assert assert_whole(served, client) == before
        first, second = issue(client, key), issue(client, key)
        assert second.content == first.content
        assert second.headers["idempotency-replayed"] == "true"
        assert assert_whole(served, client) == [first.json()["data"]["id"], *before]


def is_served(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_statement_that_was_committed_and_never_answered_is_found_under_its_key(
    served: Served, token: str
) -> None:
    key, loops = f"key-{next(_keys)}", served.loops()
    with served.client(token) as client:
        before = assert_whole(served, client)
    os.kill(loops, signal.SIGSTOP)
    try:
        # The writer leaves a locked view to the projector, which stands still. So the worker waits
        # for the view between commit and reply.
        with (
            ThreadPoolExecutor() as other,
            served.client(token) as client,
            psycopg.connect(url(served)) as holder,
        ):
            holder.execute("SELECT FROM ledger.projection FOR UPDATE")
            headers = {"idempotency-key": key}
            request = other.submit(client.post, PATH, json=APRIL, headers=headers)
            until(lambda: len(query(url(served), _EVENTS)) == len(before) + 1, "the commit")
            kill_workers(served)
            assert isinstance(request.exception(20), httpx.TransportError)
    finally:
        os.kill(loops, signal.SIGCONT)
    with served.client(token) as client:
        until(lambda: is_served(client), "a worker")
        answer = issue(client, key)
        assert answer.headers["idempotency-replayed"] == "true"
        assert assert_whole(served, client) == [answer.json()["data"]["id"], *before]


@pytest.mark.crash
def test_statements_are_whole_and_once_however_often_workers_are_killed(
    served: Served, token: str, pytestconfig: pytest.Config
) -> None:
    kills, stopping = pytestconfig.getoption("--crash-rounds"), threading.Event()
    with served.client(token) as client:
        before = assert_whole(served, client)
    issued: list[str] = []

    def keep_issuing(name: str) -> None:
        with served.client(token) as client:
            for number in itertools.count():
                if stopping.is_set():
                    return
                issued.append(issue(client, f"{name}-{number}").json()["data"]["id"])

    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(keep_issuing, f"crash-{n}") for n in range(4)]
        try:
            for _ in range(kills):
                wanted = len(issued) + 5
                until(lambda wanted=wanted: len(issued) >= wanted, "statements", 60.0)
                kill_workers(served)
        finally:
            stopping.set()
        for worker in workers:
            worker.result(60)
    with served.client(token) as client:
        assert sorted(assert_whole(served, client)) == sorted([*issued, *before])
    assert check(url(served)).findings == []
