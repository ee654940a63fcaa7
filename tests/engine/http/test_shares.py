"""How many requests of a credential may be in progress in a worker (contract, Access, "Shares")."""

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse

import httpx
import pytest

from ledger.engine.http.machinery.shares import Share, Shares
from ledger.engine.values.errors import RateLimited
from ledger.engine.values.principal import Principal
from tests.support.edge import Edge, assert_problem
from tests.support.facts import encode, fact
from tests.support.service import BATCH, STRUCTURED
from tests.support.streaming import Address
from tests.support.views import until

MANY, MUCH = 3, 100_000


@pytest.fixture(autouse=True)
def small(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of writing requests that a test can fill."""
    shares = edge.service.app.state.services.shares
    assert (shares.writes.most, shares.bodies.most) == (1024, 32 * 1024 * 1024)
    monkeypatch.setattr(shares.writes, "most", MANY)
    monkeypatch.setattr(shares.bodies, "most", MUCH)


class Waiting:
    """Requests whose bodies have not arrived completely."""

    def __init__(self, edge: Edge, address: Address, stack: ExitStack) -> None:
        self._edge, self._address, self._stack = edge, address, stack
        self._shares = edge.service.app.state.services.shares
        self.sockets: list[socket.socket] = []

    def send(self, token: str, body: bytes, arrived: int, *more: str) -> None:
        """Send a request with a part of its body, and wait until the part has arrived."""
        lines = (
            "POST /v1/facts HTTP/1.1",
            "host: x",
            f"authorization: Bearer {token}",
            "content-type: application/cloudevents+json",
            f"content-length: {len(body)}",
            *more,
        )
        client = self._stack.enter_context(socket.create_connection(self._address, timeout=10))
        self.sockets.append(client)
        expected = self._shares.writes.all + 1, self._shares.bodies.all + arrived
        client.sendall("\r\n".join((*lines, "", "")).encode() + body[:arrived])
        shares = self._shares
        until(lambda: (shares.writes.all, shares.bodies.all) == expected, "the body's part")

    def end(self, number: int, rest: bytes) -> int:
        """Send the rest of a body; the status of the answer."""
        self.sockets[number].sendall(rest)
        answer = HTTPResponse(self.sockets[number])
        answer.begin()
        answer.read()
        return answer.status


@pytest.fixture
def waiting(edge: Edge, address: Address) -> Iterator[Waiting]:
    shares = edge.service.app.state.services.shares
    with ExitStack() as stack:
        yield Waiting(edge, address, stack)
    until(lambda: shares.writes.all == shares.bodies.all == 0, "the end of every request")


def assert_limited(answer: httpx.Response) -> None:
    problem = assert_problem(answer, 429, "rate_limited")
    assert problem["title"] == "Too Many Requests"
    assert answer.headers["retry-after"] == "1"


def check_in(line: str) -> bytes:
    return encode(fact("execution.checked_in", line))


def test_a_request_beyond_those_that_may_wait_is_a_429_and_records_nothing(
    edge: Edge, waiting: Waiting
) -> None:
    line, token, neighbour = edge.fresh(), edge.token("read", "write"), edge.token("write")
    body = check_in(line)
    for _ in range(MANY):
        waiting.send(token, body, 10)
    before = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
    assert_limited(edge.send(check_in(line), token))
    assert edge.select("SELECT max(notification_id) FROM ledger.ledger_events") == before
    # Reads have a share of their own, as another credential has.
    assert edge.get(f"/v1/execution/{line}", token).status_code == 200
    assert edge.send(check_in(line), neighbour).status_code == 201
    assert waiting.end(0, body[10:]) == 201
    assert edge.send(check_in(line), token).status_code == 201


def test_bodies_beyond_the_bytes_that_may_wait_are_429_also_while_they_arrive(
    edge: Edge, waiting: Waiting
) -> None:
    line, token = edge.fresh(), edge.token("write")
    large = b" " * 60_000 + check_in(line)
    waiting.send(token, large, 60_000)
    before = edge.log()
    assert_limited(edge.send(b" " * 50_000 + check_in(line), token))
    assert edge.log() == before
    assert edge.send(b" " * 20_000 + check_in(line), token).status_code == 201
    assert waiting.end(0, large[60_000:]) == 201
    assert edge.send(b" " * 50_000 + check_in(line), token).status_code == 201


def test_a_compressed_body_counts_as_it_is_unpacked(edge: Edge) -> None:
    body = gzip.compress(b"[" + b" " * 2 * MUCH + check_in(edge.fresh()) + b"]")
    assert len(body) < MUCH / 10
    packed = BATCH | {"content-encoding": "gzip"}
    assert_limited(edge.post("/v1/facts", edge.token("write"), content=body, headers=packed))


def test_commands_and_heartbeats_count_too(edge: Edge, waiting: Waiting) -> None:
    line = edge.fresh()
    token = edge.token("write", "service_lines:manage")
    for _ in range(MANY):
        waiting.send(token, check_in(line), 10)
    pause = edge.post(f"/v1/execution/{line}/pause", token, json={"reason": "r"})
    assert_limited(pause)
    assert_limited(edge.post("/v1/runs/RUN-26-000001/heartbeat", token))


def test_the_refusals_are_counted(edge: Edge, waiting: Waiting) -> None:
    def counted() -> float:
        text = edge.get("/metrics").text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("ledger_rate_limited_total")
        )

    token, before = edge.token("write"), counted()
    assert_limited(edge.send(b" " * 2 * MUCH, token))
    assert counted() == before + 1


@pytest.mark.parametrize("kind", ["writes", "reads", "exports", "large_pages"])
def test_an_organization_with_many_keys_leaves_room_for_others(kind: str) -> None:
    held = getattr(Shares(), kind)

    def key(organization: str, number: int) -> Principal:
        return Principal(f"KEY-{number}", "api_key", frozenset({"write"}), organization)

    def fill(organization: str) -> int:
        """How many requests of an organization with thousands of keys may be in progress."""
        for number in range(100_000):
            try:
                Share(held, key(organization, number))
            except RateLimited:
                return number
        raise AssertionError("no limit")

    assert fill("ORG-26-000001") == 8 * held.most
    assert fill("ORG-26-000002") == 4 * held.most
    Share(held, key("ORG-26-000003", 1))


def test_a_refused_body_keeps_the_connection_usable(edge: Edge, address: Address) -> None:
    token, line = edge.token("write"), edge.fresh()
    with httpx.Client(base_url=f"http://{address.host}:{address.port}") as client:
        headers = STRUCTURED | {"authorization": f"Bearer {token}"}
        refused = client.post("/v1/facts", content=b" " * 3 * MUCH, headers=headers)
        assert (refused.status_code, json.loads(refused.content)["code"]) == (429, "rate_limited")
        assert client.post("/v1/facts", content=check_in(line), headers=headers).status_code == 201
