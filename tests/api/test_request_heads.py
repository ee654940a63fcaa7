"""What a request's head must say, to the letter, and how its path is read (contract 7)."""

import itertools
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
from fastapi.routing import APIRoute

from tests.support.edge import Edge, assert_problem
from tests.support.service import ALL
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


# Slashes that are part of a name.


def encoded(path: str) -> list[str]:
    """A route's path with each of its slashes but the first, or of its names, encoded."""
    named = re.sub(r"{[^}]*}", "LIN-26-000001", path)
    places = [place.start() for place in re.finditer("/", named) if place.start()]
    found = [f"{named[:place]}%2F{named[place + 1 :]}" for place in places]
    return found + [
        re.sub(r"{[^}]*}", name, path)
        for name in ("LIN-26-000001%2f", "%2FLIN-26-000001", "a%2Fb", "1%2f", "..%2f..")
        if "{" in path
    ]


def test_an_encoded_slash_separates_nothing(edge: Edge) -> None:
    """A proxy that guards a path, and we, must mean the same by it."""
    token = edge.token(*ALL)
    guest = visitor(edge, *ALL)
    fields = guest.get("/ui").form("/ui/sign-out") | {"request_key": "k", "reason": "r"}
    routes = [route for route in edge.service.app.routes if isinstance(route, APIRoute)]
    assert len(routes) > 50
    for route in routes:
        for method, path in itertools.product(route.methods, encoded(route.path)):
            if not re.match("/ui(/|%2F)", path):
                answer = edge.request(method, path, token, json={"reason": "r"})
                assert_problem(answer, 404, "not_found")
            else:
                seen = guest.get(path) if method == "GET" else guest.post(path, fields)
                assert (seen.status, seen.words("h1")) == (404, ["Not found"]), path


def test_an_encoded_slash_leads_to_no_file(edge: Edge) -> None:
    for path in ("/ui/static%2Fpage.css", "/docs%2Fstatic/swagger-ui.css", "/docs/static/a%2fb"):
        assert edge.get(path).status_code == 404


def test_what_is_encoded_twice_is_part_of_an_unknown_id(edge: Edge) -> None:
    line = edge.fresh()
    assert edge.get(f"/v1/execution/{line}/runs").status_code == 200
    assert_problem(edge.get(f"/v1/execution/{line}%252Fruns"), 404, "not_found")
    assert_problem(edge.get(f"/v1/execution/{line}%252Fruns", "wrong"), 401, "unauthorized")
