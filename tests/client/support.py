"""Helpers for the tests of the Python client."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec
from execution_ledger import Problem

from tests.support.documents import ROOT
from tests.support.edge import Edge

CLIENT = ROOT / "src/ledger_client"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CLIENT)}
"""The environment of programs that import the client."""


class Service(NamedTuple):
    """A running service, and a token for it."""

    edge: Edge
    address: str
    token: str


class Refusals(list[tuple[dict[str, Any], Problem]]):
    """The refusals that a client has told: facts with their problems."""

    def __call__(self, fact: dict[str, Any], problem: Problem) -> None:
        self.append((fact, problem))

    @property
    def codes(self) -> list[str | None]:
        return [problem.code for _, problem in self]


class Request(NamedTuple):
    """A request that a stand-in got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Reply(NamedTuple):
    """An answer of a stand-in, in JSON unless it is bytes; status 0 closes the connection."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012


class StandIn:
    """A small HTTP server that fails on demand, where a real service does not."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for each answer: else its body waits for an acknowledgement

            def handle_one(self) -> None:
                size = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(size))
                stand_in.requests.append(request)
                reply = stand_in._answer(request)
                if reply.status == 0:
                    self.close_connection = True
                    return
                body = b"" if reply.body is None else reply.body
                body = body if isinstance(body, bytes) else msgspec.json.encode(body)
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_one

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["StandIn"]:
        """Serve until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def accept(request: Request) -> Reply:
    """The answer to facts that are all recorded."""
    facts = request.json if isinstance(request.json, list) else [request.json]
    items = [
        {
            "index": index,
            "id": fact["id"],
            "source": fact["source"],
            "outcome": "recorded",
            "subject": fact.get("subject") or "RUN-26-000001",
            "event_ids": ["EVT-26-000001"],
            "position": 1,
            "error": None,
        }
        for index, fact in enumerate(facts)
    ]
    return Reply(200, {"data": items if isinstance(request.json, list) else items[0]})


def problem(status: int, code: str, **headers: str) -> Reply:
    """The answer that refuses a request."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": "No.", "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body | {"request_id": "r-1"}, named)
