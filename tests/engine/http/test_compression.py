"""Answers above 1 KiB are compressed for clients that accept gzip (contract, Access)."""

import gzip
from contextlib import closing
from http.client import HTTPConnection
from typing import NamedTuple

import pytest

from ledger.engine.http import replies
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, fact
from tests.support.streaming import Address, Listener
from tests.support.visitor import visitor

GZIP, PLAIN = "gzip", "identity"


class Raw(NamedTuple):
    """An answer as it was sent; its body is not unpacked."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_packed(self) -> bool:
        return self.headers.get("content-encoding") == "gzip"

    @property
    def unpacked(self) -> bytes:
        return gzip.decompress(self.body) if self.is_packed else self.body


@pytest.fixture(scope="module")
def token(edge: Edge) -> str:
    for _ in range(30):
        edge.fresh(project_tags=["PROJ-1", "PROJ-2"])
    return edge.token("read", "audit:read")


def ask(
    address: Address, path: str, token: str, accepted: str | None, method: str = "GET", **more: str
) -> Raw:
    """Send a request with ``accepted`` as its Accept-Encoding; None: without this header."""
    with closing(HTTPConnection(*address, timeout=30)) as connection:
        connection.putrequest(method, path, skip_accept_encoding=True)
        if accepted is not None:
            connection.putheader("accept-encoding", accepted)
        connection.putheader("authorization", f"Bearer {token}")
        for name, value in more.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Raw(answer.status, headers, answer.read())


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        (None, False), ("", False), ("identity", False), ("br, deflate", False),
        ("gzip;q=0", False), ("gzip; q=0.000", False), ("gzip;q=0, *", False), ("*;q=0", False),
        ("gzipped", False), ("gzip;q=x", False), ("gzip;q=2", False), ("gzip;q=-1", False),
        ("gzip;q=nan", False), ("gzip", True), ("GZIP", True), ("x-gzip", True), ("*", True),
        ("identity;q=0, *;q=0.1", True), ("br;q=1.0, gzip;q=0.001", True),
        ("deflate , gzip ; q=1", True), ("gzip;q=0, x-gzip", True),
        ("deflate, gzip, br, zstd", True), (",, gzip,", True),
    ],
)  # fmt: skip
def test_a_client_that_accepts_gzip_gets_a_compressed_body(
    address: Address, token: str, accepted: str | None, is_packed: bool
) -> None:
    answer = ask(address, "/v1/execution", token, accepted)
    assert (answer.status, answer.is_packed) == (200, is_packed)
    assert len(answer.body) == int(answer.headers["content-length"])
    plain = ask(address, "/v1/execution", token, PLAIN)
    assert answer.unpacked == plain.body
    assert len(plain.body) > 5 * 1024
    assert not is_packed or len(answer.body) * 5 < len(plain.body)


def test_an_answer_that_is_kept_is_compressed_once(
    edge: Edge, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = list[bytes]()

    def noted(body: bytes) -> bytes:
        packed.append(body)
        return gzip.compress(body)

    monkeypatch.setattr(replies, "packed", noted)
    path, headers = "/v1/execution?limit=29", {"accept-encoding": GZIP}
    answers = [edge.get(path, token, headers=headers) for _ in range(3)]
    assert [answer.headers["content-encoding"] for answer in answers] == [GZIP] * 3
    assert packed == [answers[0].content]


def test_several_accept_encoding_headers_are_one_list(edge: Edge, token: str) -> None:
    headers = [("accept-encoding", "br"), ("accept-encoding", "gzip")]
    assert edge.get("/v1/execution", token, headers=headers).headers["content-encoding"] == "gzip"


def line_of(edge: Edge, size: int, token: str) -> str:
    """The path of a new line whose detail has ``size`` bytes."""
    plain = edge.get(f"/v1/execution/{edge.fresh(project_tags=['P'])}", token)
    # A further tag takes its letters, two quotes and a comma.
    letters = size - len(plain.content) - 5 * 3
    tags = [tag * (letters // 5) for tag in "abcd"] + ["e" * (letters - letters // 5 * 4)]
    return f"/v1/execution/{edge.fresh(project_tags=['P', *tags])}"


def test_bodies_of_up_to_1_kib_are_not_compressed(edge: Edge, address: Address, token: str) -> None:
    tags = {}
    for size in (1024, 1025):
        path = line_of(edge, size, token)
        plain, packed = (ask(address, path, token, accepted) for accepted in (PLAIN, GZIP))
        assert len(plain.body) == size
        assert packed.is_packed == (size > 1024)
        assert packed.unpacked == plain.body
        tags[size] = packed.headers["etag"], plain.headers["etag"]
    assert tags[1024][0] == tags[1024][1]
    assert tags[1025][0] == f"W/{tags[1025][1]}"


@pytest.mark.parametrize("accepted", [GZIP, PLAIN])
def test_the_weak_and_the_strong_entity_tag_of_an_answer_both_give_a_304(
    edge: Edge, address: Address, accepted: str, token: str
) -> None:
    for path in (line_of(edge, 1100, token), line_of(edge, 1000, token)):
        answer = ask(address, path, token, accepted)
        tag = answer.headers["etag"]
        assert tag.startswith("W/") == answer.is_packed
        for sent in (tag, tag.removeprefix("W/"), f"W/{tag.removeprefix('W/')}", "*"):
            cached = ask(address, path, token, accepted, if_none_match=sent)
            assert (cached.status, cached.body) == (304, b"")
            assert cached.headers["etag"] == tag
            assert "content-encoding" not in cached.headers
        assert ask(address, path, token, accepted, if_none_match='W/"x"').status == 200


def test_a_cached_answer_is_sent_in_the_coding_that_each_client_accepts(
    address: Address, token: str
) -> None:
    codings = (GZIP, PLAIN, GZIP, GZIP, PLAIN)
    answers = [ask(address, "/v1/execution", token, coding) for coding in codings]
    assert [answer.is_packed for answer in answers] == [coding == GZIP for coding in codings]
    assert len({answer.unpacked for answer in answers}) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/openapi.json",
        "/metrics",
        "/ui/static/page.css",
        "/docs/static/swagger-ui-bundle.js",
    ],
)
def test_documents_metrics_and_static_files_are_compressed(
    address: Address, token: str, path: str
) -> None:
    packed, plain = ask(address, path, token, GZIP), ask(address, path, token, PLAIN)
    assert packed.is_packed
    assert not plain.is_packed
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    if path != "/metrics":
        assert packed.unpacked == plain.body
    if "etag" in plain.headers:
        assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
        cached = ask(address, path, token, GZIP, if_none_match=packed.headers["etag"])
        assert cached.status == 304


def test_a_page_of_the_web_interface_is_compressed(edge: Edge, token: str) -> None:
    page = visitor(edge).get("/ui", headers={"accept-encoding": "gzip"}).answer
    assert page.headers["content-encoding"] == "gzip"
    assert page.headers["vary"] == "Accept-Encoding"


def test_a_refusal_that_names_many_wrong_fields_is_compressed(edge: Edge) -> None:
    event = fact("execution.checked_in", edge.fresh(), {f"unknown_{n}": n for n in range(60)})
    answer = edge.send(event)
    assert_problem(answer, 422, "invalid_request")
    assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_an_export_is_compressed_while_it_is_sent(
    address: Address, token: str, format_: str
) -> None:
    path = f"/v1/audit-logs/export?organization_id={ORGANIZATION}&format={format_}"
    packed, plain = ask(address, path, token, GZIP), ask(address, path, token, PLAIN)
    assert packed.is_packed
    assert "content-length" not in packed.headers
    assert packed.unpacked == plain.body
    assert len(packed.body) * 3 < len(plain.body)


def test_an_event_stream_is_never_compressed(edge: Edge, address: Address, token: str) -> None:
    line = edge.fresh()
    with closing(HTTPConnection(*address, timeout=30)) as connection:
        headers = {"authorization": f"Bearer {token}", "accept-encoding": "gzip, *"}
        connection.request("GET", "/v1/events/stream", headers=headers)
        answer = connection.getresponse()
        assert answer.headers["content-encoding"] is None
        edge.accept(fact("service_line.paused", line, {"reason": "x" * 2000}))
        while not (received := answer.readline()).startswith(b"data:"):
            assert received
        assert line.encode() in received
    with Listener(address, token) as listener:
        listener.opened()
