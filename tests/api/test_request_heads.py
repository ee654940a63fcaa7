"""What a request's head must say, to the letter, and how its path is read (contract 7)."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.streaming import Address, listening
from tests.support.visitor import visitor

PATHS = ("/", "/healthz", "/metrics", "/v1/execution", "/ui", "/docs", "/nothing", "/v1/facts")


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[Address]:
    with listening(edge) as address:
        yield address


def told(address: Address, head: str) -> tuple[HTTPResponse, bytes, bytes]:
    """The answer to a head, its body, and what follows until the connection ends."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head.replace("\n", "\r\n").encode())
        answer = HTTPResponse(client)
        answer.begin()
        return answer, answer.read(), client.recv(1)


@pytest.mark.parametrize("hosts", ["", "Host: x\nHost: x\n", "Host: x\nx: y\nhost: y\n"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_request_names_one_host(address: Address, hosts: str, version: str) -> None:
    for path in PATHS:
        answer, body, rest = told(address, f"GET {path} HTTP/{version}\n{hosts}\n")
        problem = json.loads(body)
        assert (answer.status, problem["code"]) == (400, "invalid_request")
        assert problem["title"] == "Bad Request"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == problem["request_id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["connection"] == "close"
        assert rest == b""


def test_a_host_that_is_named_once_is_taken(address: Address) -> None:
    for version in ("1.0", "1.1"):
        head = f"GET /healthz HTTP/{version}\nconnection: close\nx: 1\nHOST: x\nx: 2\n\n"
        assert told(address, head)[0].status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_of_two_credentials_none_is_taken(edge: Edge, method: str) -> None:
    good, path = f"Bearer {edge.token('read', 'write')}", "/v1/execution"
    if method == "POST":
        path = "/v1/facts"
    for pair in ((good, good), (good, "Bearer x"), ("Bearer x", good), (good, "")):
        headers = [("authorization", sent) for sent in pair]
        assert_problem(edge.request(method, path, headers=headers), 401, "unauthorized")


def test_where_no_credential_is_looked_at_two_do_no_harm(edge: Edge) -> None:
    headers = [("authorization", "Bearer x")] * 2
    assert edge.get("/healthz", headers=headers).status_code == 200
    assert visitor(edge).get("/ui", headers=headers).status == 200
