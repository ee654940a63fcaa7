"""How many reads of a credential may be in progress in a worker (contract, Access, "Shares")."""

import asyncio
import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from typing import Any

import msgspec
import psycopg
import pytest

from ledger.features.lines.kept_views import Saved, SavedView
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.streaming import Address, Listener, narrow
from tests.support.views import until
from tests.support.visitor import Visitor

READS, EXPORTS, PAGES = 32, 4, 4
LATE = "ledger-min-position: 9000000000"  # a read waits two seconds for it, and is a 503 then
EXPORTED = (
    "/v1/events/export",
    "/v1/events?occurred_from=2026-04-15",  # counts as an export
    "/v1/audit-logs/export?organization_id=ORG-26-000001",
    "/v1/runs/export",
    "/v1/execution/export",
)


class InHand:
    """Requests that were sent and are not answered yet."""

    def __init__(self, edge: Edge, address: Address, stack: ExitStack) -> None:
        self.shares = edge.service.app.state.services.shares
        self._address, self._stack = address, stack
        self._sockets = list[socket.socket]()

    def ask(self, path: str, *headers: str) -> socket.socket:
        """Send a request, and wait until it is in progress."""
        client = self._stack.enter_context(narrow(self._address, 4096))
        client.settimeout(30)
        expected = self.shares.reads.all + 1
        client.sendall("\r\n".join((f"GET {path} HTTP/1.1", "host: x", *headers, "", "")).encode())
        until(lambda: self.shares.reads.all == expected, "the request to be in hand")
        self._sockets.append(client)
        return client

    def statuses(self) -> set[int]:
        """The statuses of the answers, once all have come."""
        answers = [HTTPResponse(client) for client in self._sockets]
        for answer in answers:
            answer.begin()
            answer.read()
        return {answer.status for answer in answers}

    @property
    def counts(self) -> tuple[int, int, int]:
        """The reads, exports and large pages in progress."""
        kinds = self.shares.reads, self.shares.exports, self.shares.large_pages
        reads, exports, pages = (kind.all for kind in kinds)
        return reads, exports, pages


@pytest.fixture
def in_hand(edge: Edge, address: Address) -> Iterator[InHand]:
    with ExitStack() as stack:
        requests = InHand(edge, address, stack)
        yield requests
    until(lambda: requests.counts == (0, 0, 0), "the end of every request")


def cookie_of(guest: Visitor) -> str:
    return "; ".join(f"{name}={value}" for name, value in guest.http.cookies.items())


@contextmanager
def views_locked(edge: Edge) -> Iterator[None]:
    """Lock the views: no statement that reads lines is answered meanwhile."""
    with psycopg.connect(edge.conninfo) as connection:
        connection.execute("LOCK TABLE ledger.projection IN ACCESS EXCLUSIVE MODE")
        yield


def test_a_read_beyond_thirty_two_of_a_credential_is_a_429(
    edge: Edge, address: Address, in_hand: InHand
) -> None:
    line, token, neighbour = edge.fresh(), edge.token("read", "write"), edge.token("read")
    bearer = f"authorization: Bearer {token}"
    for _ in range(READS):
        in_hand.ask(f"/v1/execution/{line}", bearer, LATE)
    refused = edge.get("/v1/execution", token)
    assert_problem(refused, 429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    assert_problem(edge.get("/v1/events/export", token), 429, "rate_limited")
    # Writes, streams, other credentials, and requests without a credential have no part in it.
    assert edge.post("/v1/facts", token, content=b"{").status_code == 415
    with Listener(address, token) as stream:
        assert stream.answer.status == 200
    assert edge.get(f"/v1/execution/{line}", neighbour).status_code == 200
    assert edge.get("/healthz").status_code == 200
    assert in_hand.counts == (READS, 0, 0)
    assert in_hand.statuses() == {503}
    assert edge.get(f"/v1/execution/{line}", token).status_code == 200


def test_an_export_beyond_four_of_a_credential_is_a_429(edge: Edge, in_hand: InHand) -> None:
    token = edge.token("read", "audit:read")
    bearer = f"authorization: Bearer {token}"
    for number in range(EXPORTS):
        in_hand.ask(EXPORTED[number % len(EXPORTED)], bearer, LATE)
    for path in EXPORTED:
        assert_problem(edge.get(path, token), 429, "rate_limited")
    guest = Visitor(edge, token)
    assert [guest.get(f"/ui/{log}/export").status for log in ("events", "audit")] == [429, 429]
    assert edge.get("/v1/execution", token).status_code == 200
    assert edge.get("/v1/events/export", edge.token("read")).status_code == 200
    assert in_hand.counts == (EXPORTS, EXPORTS, 0)
    assert in_hand.statuses() == {503}
    assert edge.get("/v1/events/export", token).status_code == 200


def test_an_export_of_which_nothing_is_read_is_in_hand_until_its_client_leaves(
    edge: Edge, in_hand: InHand
) -> None:
    line, token = edge.fresh(), edge.token("read")
    hours = {"hours": 1, "note": "n" * 200_000}
    for _ in range(2):  # more than the buffers of a connection hold
        edge.accept(*(fact("execution.checked_in", line, hours) for _ in range(30)))
    unread = [in_hand.ask(EXPORTED[0], f"authorization: Bearer {token}") for _ in range(EXPORTS)]
    assert {client.recv(12) for client in unread} == {b"HTTP/1.1 200"}
    assert_problem(edge.get(EXPORTED[0], token), 429, "rate_limited")
    for client in unread:
        client.close()
    until(lambda: in_hand.counts == (0, 0, 0), "the exports to break off")
    assert edge.get(EXPORTED[0], token).status_code == 200


@pytest.mark.parametrize("path", ["/ui?limit=51", "/ui/events?limit=100", "/ui/audit?limit=%2B51"])
def test_a_large_page_beyond_four_of_a_credential_is_a_page_that_says_so(
    edge: Edge, in_hand: InHand, path: str
) -> None:
    token = edge.token("read", "audit:read")
    guest = Visitor(edge, token)
    cookie = f"cookie: {cookie_of(guest)}"
    with views_locked(edge):
        for number in range(PAGES):
            in_hand.ask("/ui?limit=200" if number else path, cookie)
        assert in_hand.counts == (PAGES, 0, PAGES)
        refused = guest.get(path)
    assert refused.status == 429
    assert refused.answer.headers["retry-after"] == "1"
    assert refused.words("h1") == ["Too much waits already"]
    assert "Try again in a moment." in refused.text
    (again,) = refused.all("main a.button")[:1]
    assert (again.get_text(), again["href"]) == ("Try again", path)
    assert in_hand.statuses() == {200}
    assert guest.get(path).status == 200


def test_a_page_with_saved_views_counts_by_the_lists_that_it_asks(
    edge: Edge, in_hand: InHand
) -> None:
    """Sixteen pages with thirty views each once had 528 lists in progress, for sixteen reads."""
    guest = Visitor(edge, edge.token("read"))
    cookie = cookie_of(guest)

    def cookies(views: int) -> str:
        saved = Saved("me" if views else "", [SavedView(f"{n}", "/ui") for n in range(views)])
        words = base64.urlsafe_b64encode(msgspec.json.encode(saved)).decode().rstrip("=")
        return f"cookie: {cookie}; ledger_views={words}"

    many = {"cookie": cookies(30).removeprefix("cookie: ")}
    with views_locked(edge):
        for _ in range(3):
            in_hand.ask("/ui", cookies(30))
        assert in_hand.shares.lists.all == 3 * (3 + 1 + 30)
        refused = edge.get("/ui", headers=many)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert "Try again in a moment." in refused.text
        # There is room for pages with fewer views, of the past, of others, and for reads.
        others = cookies(5).replace(cookie, cookie_of(Visitor(edge, edge.token("read"))))
        for path, more in (("/ui", cookies(10)), ("/ui", cookies(0)), ("/ui", others),
                           ("/ui?as_of=2026-04-15T00:00:00Z", cookies(30))):  # fmt: skip
            in_hand.ask(path, more)
        assert in_hand.shares.lists.all == 3 * 34 + 14 + 3 + 9
    assert in_hand.statuses() == {200}
    assert edge.get("/ui", headers=many).status_code == 200


def test_a_page_of_the_board_has_at_most_two_hundred_rows(edge: Edge) -> None:
    guest = Visitor(edge, edge.token("read"))
    assert guest.get("/ui?limit=200").status == 200
    refused = guest.get("/ui?limit=201")
    assert refused.status == 422
    assert "Rows: must be less than or equal to 200." in refused.text
    offered = [option["value"] for option in guest.get("/ui").all('select[name="limit"] option')]
    assert offered == ["", "25", "100", "200"]


def test_requests_that_come_at_once_with_a_new_key_share_its_lookup(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of look-ups would wait for connections before those of other keys."""
    token = edge.token("read")
    pool = edge.service.app.state.services.pool
    requests, fetch = list[str](), pool.fetch

    async def noted(tenant: Any, statement: str, *more: Any) -> Any:
        requests.append(statement)
        return await fetch(tenant, statement, *more)

    async def at_once() -> list[int]:
        http, headers = edge.service.http, {"authorization": f"Bearer {token}"}
        answers = [http.get("/v1/execution/LIN-26-999999", headers=headers) for _ in range(READS)]
        return [answer.status_code for answer in await asyncio.gather(*answers)]

    monkeypatch.setattr(pool, "fetch", noted)
    assert edge.run(at_once()) == [404] * READS
    assert len([statement for statement in requests if "passing_keys" in statement]) == 1
