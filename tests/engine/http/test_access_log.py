"""The access log and the request's id in lines: what a line shows, what it hides, what it costs."""

import asyncio
import fcntl
import io
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from ledger.engine.http.machinery import access_log
from ledger.engine.http.machinery.access_log import AccessLog, redacted_credential, redacted_path
from ledger.engine.telemetry.lines import Line, LineFormatter, LogFormat, as_json
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.relay import Relay

TOKEN = "elk_3MGAr7Y8UYmeNRBfAFo"


@contextmanager
def logged(app: ASGIApp, file: Path, log_format: LogFormat = "json") -> Iterator[httpx.AsyncClient]:
    """A client of the application behind an access log; at the end the lines are in the file."""
    with file.open("ab") as out:
        layer = AccessLog(app, log_format, out.fileno())
        layer.start()
        transport = httpx.ASGITransport(layer, raise_app_exceptions=False, client=("10.1.2.3", 4))
        yield httpx.AsyncClient(transport=transport, base_url="http://ledger.test")
        layer.stop()


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_answered_request_leaves_a_line_that_names_its_key_and_hides_query_and_token(
    edge: Edge, tmp_path: Path
) -> None:
    token, file = edge.token("read"), tmp_path / "log"
    headers = {"authorization": f"Bearer {token}", "x-request-id": "req-1"}
    with logged(edge.service.app, file) as client:
        answer = edge.run(client.get("/v1/execution?workspace_id=WS-26-777777", headers=headers))
    assert answer.status_code == 200
    text = file.read_text()
    assert token not in text
    assert "777777" not in text
    (line,) = lines_of(file)
    assert line.pop("time").endswith("Z")
    assert 0 < line["duration_ms"] < 20_000
    key = edge.select("SELECT key_id FROM ledger.api_key ORDER BY key_id DESC LIMIT 1")[0][0]
    message = f"GET /v1/execution 200 {line.pop('duration_ms'):.1f} ms"
    assert line.pop("message").startswith(message)
    assert line == {
        "level": "INFO",
        "process": "supervisor",
        "logger": "ledger.access",
        "request_id": "req-1",
        "method": "GET",
        "path": "/v1/execution",
        "status": 200,
        "bytes": len(answer.content),
        "credential": key,
        "client": "10.1.2.3",
    }


def test_a_line_of_text_has_the_same_and_stays_one_line(edge: Edge, tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged(edge.service.app, file, "text") as client:
        edge.run(client.get("/v1/execution/a%0Ab%20c?q=secret", headers={"x-request-id": "req-2"}))
    (line,) = file.read_text().splitlines()
    assert " INFO ledger-supervisor GET /v1/execution/a%0Ab%20c 401 " in line
    assert line.endswith(" bytes - 10.1.2.3 [req-2]")


def test_a_line_stays_json_whatever_the_path_holds(edge: Edge, tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged(edge.service.app, file) as client:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b'/a"b\\c\n\xff',
            "query_string": b"",
            "headers": [(b"host", b"x")],
        }
        layer = client._transport.app  # type: ignore[attr-defined]
        edge.run(layer(scope, _nothing, _nothing))
    (line,) = lines_of(file)
    assert line["path"] == '/a"b\\c\n\\xff'
    assert line["client"] is None


def test_the_members_of_every_line_stand_first_and_in_the_same_order(
    edge: Edge, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    with logged(edge.service.app, file) as client:
        edge.run(client.get("/healthz"))
    line, other = lines_of(file)[0], json.loads(as_json(Line(0.0, "", "", "", "", None)))
    assert [*line][: len(other)] == [*other]


def test_lines_are_written_whole_each_once_in_the_order_in_which_their_answers_ended(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes share standard error, and a pipe takes 4,096 bytes unmixed."""
    monkeypatch.setattr(access_log, "_EVERY_SECONDS", 60.0)
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reading, writing:
        layer = AccessLog(edge.service.app, "json", writing.fileno())
        layer.start()
        client = httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://x")
        names = [f"req-{number}" for number in range(60)]
        for name in names:
            edge.run(client.get("/healthz", headers={"x-request-id": name}))
        layer.stop()
        writing.close()
        writes = [*iter(lambda: reading.recv(65_536), b"")]
    assert len(writes) > 1
    assert max(map(len, writes)) <= 4096
    assert all(write.endswith(b"\n") for write in writes)
    lines = [json.loads(line) for write in writes for line in write.splitlines()]
    assert [line["request_id"] for line in lines] == names
    assert sorted(line["time"] for line in lines) == [line["time"] for line in lines]


def test_an_answer_in_parts_is_one_line_with_all_its_bytes_even_if_it_breaks_off(
    tmp_path: Path,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"de", "more_body": True})
        raise ConnectionError

    file = tmp_path / "log"
    with logged(app, file) as client:
        layer = client._transport.app  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            asyncio.run(layer({"type": "http", "method": "GET", "path": "/x"}, _nothing, _nothing))
    (line,) = lines_of(file)
    assert (line["status"], line["bytes"], line["path"]) == (200, 5, "/x")


def test_a_log_whose_reader_has_gone_refuses_no_request(edge: Edge) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    layer = AccessLog(edge.service.app, "json", writing)
    layer.start()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://x")
    assert edge.run(client.get("/healthz")).status_code == 200
    layer.stop()
    os.close(writing)
    assert edge.run(client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_refused_requests_and_heads_leave_a_line_too(
    edge: Edge, tmp_path: Path, method: str
) -> None:
    file = tmp_path / "log"
    with logged(edge.service.app, file) as client:
        answer = edge.run(client.request(method, "/v1/execution"))
    (line,) = lines_of(file)
    assert (line["method"], line["status"]) == (method, answer.status_code)
    assert line["bytes"] == len(answer.content)
    assert line["credential"] is None
    assert line["request_id"] == answer.headers["x-request-id"]


def test_a_form_of_a_page_is_named_by_its_path_alone(edge: Edge, tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logged(edge.service.app, file) as client:
        edge.run(client.post("/ui/sign-in", data={"token": TOKEN}))
    assert TOKEN not in file.read_text()


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        (b"/v1/execution", "/v1/execution"),
        (b"/v1/execution?q=x", "/v1/execution"),
        (f"/v1/keys/{TOKEN}".encode(), "/v1/keys/***"),
        (b"/x/eyJhbGciOi.eyJzdWIiOi.c2ln-_/y", "/x/***/y"),
        (f"/v1/keys/{TOKEN.replace('_', '%5f')}/a%0Ab".encode(), "/v1/keys/***/a%0Ab"),
        (f"/v1/keys/%65{TOKEN[1:]}".encode(), "/v1/keys/***"),
        (b"/a\xffb", "/a\\xffb"),
        (b"/" + b"a" * 600, "/" + "a" * 499),
        (b"/" + b"a" * 490 + f"/{TOKEN}?{TOKEN}".encode(), "/" + "a" * 490 + "/***"),
    ],
)
def test_a_path_is_shown_without_query_and_tokens(sent: bytes, logged: str) -> None:
    assert redacted_path(sent) == logged


def test_the_subject_of_a_providers_token_is_shown_as_a_digest() -> None:
    redacted = redacted_credential("user:jane@example.com")
    assert redacted == "user:8c87b489ce35"
    assert redacted_credential("KEY-26-000001") == "KEY-26-000001"
    assert redacted_credential(None) is None


def test_a_request_whose_client_left_before_the_answer_has_no_status(tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    file = tmp_path / "log"
    with logged(app, file) as client:
        scope = {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x"}
        layer = client._transport.app  # type: ignore[attr-defined]
        asyncio.run(layer(scope, _nothing, _nothing))
    (line,) = lines_of(file)
    assert line["status"] is None


async def _nothing(*_: Message) -> Any:
    return {"type": "http.disconnect"}


def full_pipe() -> tuple[int, int, int]:
    """Both ends of a pipe that nobody reads, and the bytes that fill it."""
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    os.write(writing, b"\n" * size)
    return reading, writing, size


def logging_to(descriptor: int, edge: Edge) -> tuple[AccessLog, httpx.AsyncClient]:
    """A log that writes there, and a client of the service behind it."""
    layer = AccessLog(edge.service.app, "json", descriptor)
    layer.start()
    return layer, httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://x")


def test_no_request_waits_while_nobody_reads_the_log(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then lines are kept up to a bound, and the others counted."""
    monkeypatch.setattr(access_log, "_MOST_WAITING", 5)
    reading, writing, size = full_pipe()
    layer, client = logging_to(writing, edge)
    for _ in range(12):
        assert edge.run(client.get("/healthz")).status_code == 200
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read(size) == b"\n" * size
        output = b""
        while b"not told" not in output:
            output += pipe.readline()
        layer.stop()
        os.close(writing)
        lines = [json.loads(line) for line in (output + pipe.read()).splitlines()]
    requests = [line for line in lines if line["level"] == "INFO"]
    (counted,) = (line for line in lines if line["level"] == "WARNING")
    dropped = int(counted["message"].split()[0])
    assert dropped >= 1
    assert len(requests) + dropped == 12


def test_the_end_waits_for_no_reader_that_stands_still(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "_LAST_SECONDS", 0.05)
    reading, writing, size = full_pipe()
    layer, client = logging_to(writing, edge)
    assert edge.run(client.get("/healthz")).status_code == 200
    layer.stop()
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read(size) == b"\n" * size, "nothing else was written before the end"
        assert json.loads(pipe.readline())["path"] == "/healthz"
    os.close(writing)


@contextmanager
def written(logger: str) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines that a logger writes meanwhile."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter("json"))
    logging.getLogger(logger).addHandler(handler)
    try:
        yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    finally:
        logging.getLogger(logger).removeHandler(handler)


def test_a_line_about_a_read_names_its_request(conninfo: str, settings: Settings) -> None:
    with closing(Relay(conninfo)) as relay, written("ledger.engine.http.problems") as lines:
        made = prepare_database(settings, relay.conninfo)
        with edge_of(settings, made) as edge:
            relay.accepts_connections = False
            relay.cut()
            answer = edge.get("/v1/execution", headers={"x-request-id": "req-1"})
            assert answer.status_code == 503
            relay.accepts_connections = True
        (line,) = lines()
    assert line["message"].startswith("database error: ")
    assert line["request_id"] == "req-1"


def test_a_line_about_the_append_of_a_single_request_names_it(
    conninfo: str, settings: Settings
) -> None:
    """The line is written on another thread than the request's."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh("capacity")
        body = json.dumps(fact("execution.checked_in", line, {"hours": 1}))
        headers = {"x-request-id": "req-2", "content-type": "application/cloudevents+json"}
        with written("ledger.engine.writer.writer") as lines:
            with psycopg.connect(conninfo) as other:
                other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
                answer = edge.post("/v1/facts", content=body, headers=headers)
            assert answer.status_code == 503
            named = [one["request_id"] for one in lines() if "append failed" in one["message"]]
    assert set(named) <= {"req-2", None}, "a probe of the writer's works for no request"
    assert named.count("req-2") == 1
