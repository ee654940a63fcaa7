"""Request heads: Host, credentials, and encoded slashes in the path (contract, Access)."""

import itertools
import json
import re
import socket
from http.client import HTTPResponse

import pytest
from fastapi.routing import APIRoute

from tests.support.edge import Edge, assert_problem
from tests.support.service import ALL
from tests.support.streaming import Address
from tests.support.visitor import visitor

PATHS = ("/", "/healthz", "/metrics", "/v1/execution", "/ui", "/docs", "/nothing", "/v1/facts")


def send_head(address: Address, head: str) -> tuple[HTTPResponse, bytes, bytes]:
    """The answer to a head, its body, and the next byte, which is empty at the connection's end."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head.replace("\n", "\r\n").encode())
        answer = HTTPResponse(client)
        answer.begin()
        return answer, answer.read(), client.recv(1)


@pytest.mark.parametrize(
    "hosts",
    [
        "", "Host: x\nHost: x\n", "Host: x\nx: y\nhost: y\n", "Host:\n", "Host: \n", "Host: \t \n",
        "Host:\nHost: x\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_request_without_a_host_header_or_with_an_empty_one_or_two_is_a_400(
    address: Address, hosts: str, version: str
) -> None:
    for path in PATHS:
        answer, body, rest = send_head(address, f"GET {path} HTTP/{version}\n{hosts}\n")
        problem = json.loads(body)
        assert (answer.status, problem["code"]) == (400, "invalid_request")
        assert problem["title"] == "Bad Request"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == problem["request_id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["connection"] == "close"
        assert rest == b""


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "a\\b",
        '"a"',
        "<a>",
        "a%2",
        "a%zz",
        "\u00e4",
        "http://a",
        "a:b",
        "a:1:2",
        ":80",
        "::1",
        "[::1",
        "[::1]a",
        "[]",
        "[a]",
        "[1:::2]",
        "[fe80::1%25a]",
        "[v.a]",
    ],
)
def test_a_host_that_is_none_is_a_400(address: Address, host: str) -> None:
    for path in ("/healthz", "/v1/execution", "/ui"):
        answer, body, rest = send_head(address, f"GET {path} HTTP/1.1\nHost: {host}\n\n")
        assert (answer.status, json.loads(body)["code"]) == (400, "invalid_request")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["connection"] == "close"
        assert rest == b""


@pytest.mark.parametrize(
    "host",
    [
        "a", "A.Example.", "a_b-c.d", "a:", "a:8000", "a:0080", "127.0.0.1:1", "[::1]",
        "[2001:DB8::1.2.3.4]:8000", "[v1.a:b]", "a%20b", "a,b;c=d!$&'()*+~", " a \t",
    ],
)  # fmt: skip
def test_a_host_by_the_grammar_is_answered(address: Address, host: str) -> None:
    head = f"GET /healthz HTTP/1.1\nconnection: close\nHost: {host}\n\n"
    assert send_head(address, head)[0].status == 200


@pytest.mark.parametrize(
    "version",
    [
        "HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/1", "HTTP/1.",
        "HTTP/.1", "HTTP/1.10", "HTTP/11.1", "HTTP/1.1x", "http/1.1", "HTTPS/1.1", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", ["", "upgrade: h2c\nconnection: upgrade\n"])
def test_another_version_of_http_is_a_400_in_plain_text(
    address: Address, version: str, more: str
) -> None:
    line = f"GET /healthz {version}".strip()
    answer, body, rest = send_head(address, f"{line}\nHost: x\n{more}\n")
    assert (answer.status, body) == (400, b"Invalid HTTP request received.")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["connection"] == "close"
    assert rest == b""


def test_a_preface_of_http_2_is_a_400(address: Address) -> None:
    answer, _, rest = send_head(address, "PRI * HTTP/2.0\n\nSM\n\n")
    assert (answer.status, rest) == (400, b"")


def test_a_request_before_another_version_is_answered(address: Address) -> None:
    head = "GET /healthz HTTP/1.1\nHost: x\n\nGET /healthz HTTP/2.0\nHost: x\n\n"
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head.replace("\n", "\r\n").encode())
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"400"]


def test_a_request_with_one_host_header_is_answered(address: Address) -> None:
    for version in ("1.0", "1.1"):
        head = f"GET /healthz HTTP/{version}\nconnection: close\nx: 1\nHOST: x\nx: 2\n\n"
        assert send_head(address, head)[0].status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_with_two_authorization_headers_is_a_401(edge: Edge, method: str) -> None:
    good, path = f"Bearer {edge.token('read', 'write')}", "/v1/execution"
    if method == "POST":
        path = "/v1/facts"
    for pair in ((good, good), (good, "Bearer x"), ("Bearer x", good), (good, "")):
        headers = [("authorization", sent) for sent in pair]
        assert_problem(edge.request(method, path, headers=headers), 401, "unauthorized")


def test_two_authorization_headers_do_no_harm_where_no_token_is_needed(edge: Edge) -> None:
    headers = [("authorization", "Bearer x")] * 2
    assert edge.get("/healthz", headers=headers).status_code == 200
    assert visitor(edge).get("/ui", headers=headers).status == 200


# Encoded slashes.


def encoded(path: str) -> list[str]:
    """Forms of a route's path: a slash after the first encoded, or encoded slashes in a name."""
    named = re.sub(r"{[^}]*}", "LIN-26-000001", path)
    indexes = [index.start() for index in re.finditer("/", named) if index.start()]
    found = [f"{named[:index]}%2F{named[index + 1 :]}" for index in indexes]
    return found + [
        re.sub(r"{[^}]*}", name, path)
        for name in ("LIN-26-000001%2f", "%2FLIN-26-000001", "a%2Fb", "1%2f", "..%2f..")
        if "{" in path
    ]


def test_an_encoded_slash_separates_nothing(edge: Edge) -> None:
    """The service must read a path as a proxy that guards it does."""
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
                page = guest.get(path) if method == "GET" else guest.post(path, fields)
                assert (page.status, page.words("h1")) == (404, ["Not found"]), path


def test_an_encoded_slash_leads_to_no_file(edge: Edge) -> None:
    for path in ("/ui/static%2Fpage.css", "/docs%2Fstatic/swagger-ui.css", "/docs/static/a%2fb"):
        assert edge.get(path).status_code == 404


def test_a_slash_that_is_encoded_twice_is_part_of_an_unknown_id(edge: Edge) -> None:
    line = edge.fresh()
    assert edge.get(f"/v1/execution/{line}/runs").status_code == 200
    assert_problem(edge.get(f"/v1/execution/{line}%252Fruns"), 404, "not_found")
    assert_problem(edge.get(f"/v1/execution/{line}%252Fruns", "wrong"), 401, "unauthorized")
