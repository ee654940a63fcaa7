"""The permitted targets of a webhook, checked at registration and again by each connection."""

import asyncio
import ipaddress
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.features.webhooks.client.target import (
    LONGEST_URL,
    CannotConnect,
    Connector,
    ForbiddenTarget,
    Resolve,
    Resolver,
    check_target,
    is_public,
    parse_url,
    resolve_host,
)
from tests.support.receiver import Receiver
from tests.webhooks.targets import FORBIDDEN_HOSTS

PUBLIC = "93.184.216.34"


def resolves_to(*answers: list[str]) -> Resolve:
    """A resolver that gives these answers one after the other."""
    remaining = iter(answers)

    async def resolve(host: str) -> list[str]:
        return next(remaining)

    return resolve


def connect(host: str, port: int, allow_private: bool, resolve: Resolve = resolve_host) -> None:
    async def once() -> None:
        connector = Connector(allow_private, resolve)
        transport, _ = await connector.connect(host, port, asyncio.Protocol, 5)
        transport.abort()

    asyncio.run(once())


# The URL


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hooks.example/in", "https://hooks.example/in"),
        ("HTTPS://Hooks.Example", "https://hooks.example/"),
        ("https://hooks.example:443/a?b=c", "https://hooks.example/a?b=c"),
        ("http://hooks.example:8080/a", "http://hooks.example:8080/a"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
    ],
)
def test_a_url_comes_out_in_one_canonical_spelling(text: str, url: str) -> None:
    assert parse_url(text).url == url


def test_a_target_keeps_all_of_the_path_and_the_query() -> None:
    target = parse_url("https://hooks.example:8443/a;b=c/d;e?f=g;h#i")
    assert (target.scheme, target.host, target.port) == ("https", "hooks.example", 8443)
    assert (target.authority, target.resource) == ("hooks.example:8443", "/a;b=c/d;e?f=g;h")


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("http://hooks.example:80/", "hooks.example"),
        ("https://hooks.example:443/", "hooks.example"),
        ("http://hooks.example:443/", "hooks.example:443"),
        ("https://[2606:4700::1]:8443/", "[2606:4700::1]:8443"),
    ],
)
def test_only_a_port_that_is_not_the_default_is_named(text: str, authority: str) -> None:
    assert parse_url(text).authority == authority


def test_an_ipv6_target_has_brackets_only_in_its_authority() -> None:
    target = parse_url("https://[2606:4700::1]/")
    assert (target.host, target.authority) == ("2606:4700::1", "[2606:4700::1]")


@pytest.mark.parametrize(
    "text",
    [
        "", "hooks.example", "/in", "ftp://hooks.example/", "file:///etc/passwd",
        "javascript:alert(1)", "unix:///run/sock", "http://", "https:///?a",
        "http://zoe@hooks.example/", "http://zoe:hush@hooks.example/",
        "http://:hush@hooks.example/", "http://127.0.0.1%2f@hooks.example/",
        "http://hooks.example:0/", "http://hooks.example:65536/", "http://hooks .example/",
        " https://hooks.example/", "https://hooks.example/ ",
        "https://hooks.example/\r\nx-injected: 1", "https://hooks.ex\tample/",
        "https://hooks.example/\0", "https://hooks.example/\x7f", "https://hooks.example/\u2028",
        "https://hooks.example/\ud800", "https://hooks\u00ad.example/", "http://1.2.3.4.5/",
        "http://256.1.1.1/", "http://[fe80::1%25eth0]/",
        "https://hooks.example/" + "a" * LONGEST_URL, "https://hooks.example/" + "ä" * 400,
    ],
)  # fmt: skip
def test_an_invalid_url_is_refused_and_its_parts_are_not_in_the_error(text: str) -> None:
    with pytest.raises(ForbiddenTarget) as refused:
        parse_url(text)
    assert not any(part in str(refused.value) for part in ("hooks", "zoe", "hush", "passwd"))
    assert refused.value.__cause__ is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_canonical_url_stays_as_it_is_and_is_ascii(host: str, rest: str) -> None:
    """Each send parses the stored URL again: an accepted URL must neither change nor fail."""
    try:
        target = parse_url(f"https://{host}/{rest}")
    except ForbiddenTarget:
        return
    assert target.url.isascii()
    assert parse_url(target.url) == target


# The address


@pytest.mark.parametrize(
    "address", [PUBLIC, "1.1.1.1", "2606:4700::1", "2a00:1450:4001:830::200e", "::ffff:1.1.1.1"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "hooks.example", "127.1", "1.1.1.1/8", "fe80::1%eth0"])
def test_a_text_that_is_no_plain_address_is_not_public(text: str) -> None:
    assert not is_public(text)


PRIVATE_NETWORKS = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8"),
    *("169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
]
private_4 = st.one_of(*(st.ip_addresses(network=network) for network in PRIVATE_NETWORKS))


@given(private_4)
def test_no_private_address_is_public_in_any_disguise(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    assert not is_public(str(address))
    for prefix, shift in (
        ("::", 0),
        ("::ffff:0:0", 0),
        ("64:ff9b::", 0),
        ("64:ff9b:1::", 0),
        ("2002::", 80),
    ):
        disguised = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + (number << shift))
        assert not is_public(str(disguised)), disguised


# At registration


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_no_spelling_of_a_forbidden_host_is_registered(host: str) -> None:
    with pytest.raises(ForbiddenTarget, match="not public"):
        asyncio.run(check_target(f"http://{host}/", allow_private=False))


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_an_operator_may_allow_private_hosts(host: str) -> None:
    asyncio.run(check_target(f"http://{host}/", allow_private=True))


def test_allowing_private_hosts_does_not_allow_every_url() -> None:
    with pytest.raises(ForbiddenTarget):
        asyncio.run(check_target("ftp://hooks.example/", allow_private=True))


def test_a_host_with_a_private_address_among_public_ones_is_refused() -> None:
    resolve = resolves_to([PUBLIC, "10.0.0.1"])
    with pytest.raises(ForbiddenTarget):
        asyncio.run(check_target("https://hooks.example/", False, resolve))


def test_a_public_host_passes() -> None:
    asyncio.run(check_target("https://hooks.example/", False, resolves_to([PUBLIC])))


def test_a_name_that_does_not_resolve_passes() -> None:
    """A name with an empty label fails before any query to a name server."""
    asyncio.run(check_target("https://hooks..example/", allow_private=False))


def test_registration_does_not_wait_for_a_silent_name_server() -> None:
    with SilentNameServer() as server:
        asyncio.run(check_target("https://silent.example/", False, Resolver(server.lookup), 0.05))
        assert not server.has_answered


# The connection


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_no_connection_to_a_forbidden_host_is_made(host: str) -> None:
    with Receiver() as receiver:
        target = parse_url(f"http://{host}:{receiver.port}/")
        with pytest.raises(ForbiddenTarget):
            connect(target.host, target.port, allow_private=False)
        assert receiver.count_connections() == 0


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "localhost", "[::ffff:127.0.0.1]"])
def test_a_forbidden_host_is_connected_to_if_private_addresses_are_allowed(host: str) -> None:
    with Receiver() as receiver:
        target = parse_url(f"http://{host}:{receiver.port}/")
        connect(target.host, target.port, allow_private=True)
        assert receiver.count_connections() == 1


def test_a_name_that_is_rebound_after_its_check_is_not_connected_to() -> None:
    with Receiver() as receiver:
        resolve = resolves_to([PUBLIC], ["127.0.0.1"])
        asyncio.run(check_target(f"http://hooks.example:{receiver.port}/", False, resolve))
        with pytest.raises(ForbiddenTarget):
            connect("hooks.example", receiver.port, False, resolve)
        assert receiver.count_connections() == 0


def test_a_private_address_behind_a_public_one_is_not_connected_to() -> None:
    with Receiver() as receiver:
        behind = [PUBLIC, PUBLIC, PUBLIC, "127.0.0.1"]  # too far back to be tried
        for addresses in ([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], behind):
            with pytest.raises(ForbiddenTarget):
                connect("hooks.example", receiver.port, False, resolves_to(addresses))
        assert receiver.count_connections() == 0


def test_a_name_is_resolved_once_for_a_connection() -> None:
    """A second lookup could give an address that nobody has checked: here it would fail."""
    with Receiver() as receiver:
        connect("hooks.example", receiver.port, True, resolves_to(["127.0.0.1"]))
        assert receiver.count_connections() == 1


def test_the_next_address_is_tried_when_an_address_refuses() -> None:
    with Receiver() as receiver:
        connect("hooks.example", receiver.port, True, resolves_to(["127.0.0.2", "127.0.0.1"]))
        assert receiver.count_connections() == 1


def test_a_refused_connection_and_an_unknown_name_have_different_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(CannotConnect, match="connection refused"):
        connect("127.0.0.1", port, True)
    with pytest.raises(CannotConnect, match="name does not resolve"):
        connect("hooks..example", port, True)


def test_connecting_ends_at_its_timeout() -> None:
    async def once(resolve: Resolve) -> None:
        await Connector(True, resolve).connect("silent.example", 80, asyncio.Protocol, 0.05)

    with SilentNameServer() as server:
        with pytest.raises(TimeoutError):
            asyncio.run(once(Resolver(server.lookup)))
        assert not server.has_answered


# Names


class SilentNameServer:
    """Keeps silent about ``silent.…`` until the end; knows every other name."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.has_answered = False
        self._end = threading.Event()

    def __enter__(self) -> "SilentNameServer":
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()

    def lookup(self, host: str, port: None, **options: Any) -> list[tuple[Any, ...]]:
        self.hosts.append(host)
        if host.startswith("silent."):
            self._end.wait(20)
            self.has_answered = True
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 0))]


def test_names_that_never_resolve_delay_no_other_name() -> None:
    async def ask(resolver: Resolver) -> None:
        silent = [asyncio.ensure_future(resolver(f"silent.{n}.example")) for n in range(100)]
        async with asyncio.timeout(5):
            assert await resolver("hooks.example") == [PUBLIC]
        assert not any(task.done() for task in silent)
        for task in silent:
            task.cancel()

    with SilentNameServer() as server:
        asyncio.run(ask(Resolver(server.lookup)))


def test_concurrent_lookups_share_one_query_even_if_some_are_abandoned() -> None:
    async def ask(resolver: Resolver, server: SilentNameServer) -> None:
        askers = [asyncio.ensure_future(resolver("silent.example")) for _ in range(50)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver("silent.example"), 0.01)
        askers[0].cancel()
        server.__exit__()
        assert await asyncio.gather(*askers[1:]) == [[PUBLIC]] * 49

    server = SilentNameServer()
    asyncio.run(ask(Resolver(server.lookup), server))
    assert server.hosts == ["silent.example"]


def test_at_most_256_names_are_looked_up_at_once() -> None:
    async def ask(resolver: Resolver) -> None:
        silent = [asyncio.ensure_future(resolver(f"silent.{n}.example")) for n in range(256)]
        await asyncio.wait(silent, timeout=0)
        with pytest.raises(CannotConnect, match="too many"):
            await resolver("hooks.example")
        assert await resolver(PUBLIC) == [PUBLIC]
        for task in silent:
            task.cancel()

    with SilentNameServer() as server:
        asyncio.run(ask(Resolver(server.lookup)))
