"""API workers are killed while they take spans: sent again, each run and parent is there once."""

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger.app.composition.verification import compare
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.facts import activation
from tests.support.served import Served, post
from tests.support.traces import PROTOBUF, TRACES, agent, chat, exported, name_of, span
from tests.support.views import until

LINE = "LIN-26-000001"
LOCK = 4713

# The insert of an event of this kind waits until LOCK is free.
STOP = f"""
CREATE FUNCTION public.wait_for_event() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock({LOCK}); RETURN NEW; END';
CREATE TRIGGER stops BEFORE INSERT ON ledger.ledger_events FOR EACH ROW
    WHEN (NEW.topic LIKE '{{kind}}%') EXECUTE FUNCTION public.wait_for_event()
"""
WAITS = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {LOCK} AND NOT granted"


@pytest.fixture(scope="module")
def token(served: Served) -> str:
    token = served.token("read", "write")
    with served.client(token) as client:
        assert post(client, activation(LINE)).status_code == 201
    return token


def send(client: httpx.Client, *spans: Span) -> int:
    body = exported(*spans).SerializeToString()
    return client.post(TRACES, content=body, headers={"content-type": PROTOBUF}).status_code


def is_accepted(client: httpx.Client, *spans: Span) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return send(client, *spans) == 200
    return False


def run_of(client: httpx.Client, sent: Span) -> dict[str, Any]:
    params = {"external_id": name_of(sent)}
    (found,) = client.get("/v1/runs", params=params).json()["data"]
    return dict(found)


@pytest.mark.crash
@pytest.mark.parametrize(
    "kind",
    ["run.started", "run.parent_given"],
    ids=["between spans and facts", "between facts and parents"],
)
def test_a_trace_whose_worker_is_killed_is_whole_when_it_is_sent_again(
    served: Served, token: str, kind: str
) -> None:
    url = find_paths(served.data_dir).url()
    root = agent(LINE)
    tool = span("tool", root)
    sub = agent(LINE, tool)
    with psycopg.connect(url, autocommit=True) as database, served.client(token) as client:
        assert send(client, chat(sub), sub) == 200
        assert send(client, chat(tool)) == 200
        database.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        database.execute(STOP.format(kind=kind).encode())
        try:
            with ThreadPoolExecutor(1) as other, served.client(token) as apart:
                request = other.submit(send, apart, tool, root)
                until(lambda: database.execute(WAITS.encode()).rowcount == 1, "the insert")
                for worker in served.api_workers():
                    os.kill(worker, signal.SIGKILL)
                assert isinstance(request.exception(20), httpx.TransportError)
            # The killed worker has sent its commit already: the database must not come to it.
            ended = f"SELECT pg_terminate_backend(pid) FROM ({WAITS}) AS waits"
            assert database.execute(ended.encode()).fetchall() == [(True,)]
        finally:
            database.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
            database.execute(b"DROP FUNCTION public.wait_for_event() CASCADE")
    with served.client(token) as client:
        until(lambda: is_accepted(client, tool, root), "an answer")
        assert run_of(client, root)["tokens_used"] == 15
        below = run_of(client, sub)
        assert (below["parent_run_id"], below["tokens_used"]) == (run_of(client, root)["id"], 15)
        history = client.get(f"/v1/execution/{LINE}/history", params={"limit": 100}).json()
    parents = [each["subject"]["id"] for each in history["data"] if "given" in each["type"]]
    assert parents.count(below["id"]) == 1
    compare(url, pytest.fail, lambda *_: None)
