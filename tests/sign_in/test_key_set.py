"""The provider's keys: fetched periodically, awaited briefly, and kept during an outage."""

import asyncio
import gzip
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from jwt.algorithms import OKPAlgorithm

from ledger.engine.values.errors import Unavailable
from ledger.features.sign_in.access.key_set import (
    DEADLINE_SECONDS,
    LARGEST,
    MAX_AGE_SECONDS,
    RETRY_SECONDS,
    KeySet,
    UnusableAnswer,
    parse_keys,
)
from tests.support.provider import Provider, jwk, private_key
from tests.support.receiver import Answer

Play = Callable[[KeySet], Awaitable[Any]]


class Seconds:
    """A clock that moves only by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider("ed-1") as provider:
        yield provider


def play(provider: Provider, play: Play, clock: Seconds | None = None) -> Any:
    """Run ``play`` with a key set of the provider, which fetches only on demand."""

    async def playing() -> Any:
        keys = KeySet(provider.url, clock or Seconds())
        try:
            return await play(keys)
        finally:
            await keys.stop()

    return asyncio.run(playing())


async def finds(keys: KeySet, *names: str) -> list[bool]:
    return [await keys.find(name, "EdDSA") is not None for name in names]


# Rotation.


def test_a_new_key_works_at_once_and_a_withdrawn_key_ends(provider: Provider) -> None:
    async def rotate(keys: KeySet) -> None:
        await keys.refresh()
        old = await keys.find("ed-1", "EdDSA")
        assert old is not None
        assert keys.holds(old.thumbprint())
        provider.publish("ed-2")
        assert await finds(keys, "ed-2", "ed-1") == [True, False]
        assert not keys.holds(old.thumbprint())

    play(provider, rotate)


def test_a_new_key_under_an_existing_key_id_replaces_the_old_key(provider: Provider) -> None:
    async def replace(keys: KeySet) -> None:
        await keys.refresh()
        old = await keys.find("ed-1", "EdDSA")
        provider.keys = [jwk("ed-2", kid="ed-1")]
        await keys.refresh()
        new = await keys.find("ed-1", "EdDSA")
        assert old is not None
        assert new is not None
        assert not keys.holds(old.thumbprint())
        assert keys.holds(new.thumbprint())

    play(provider, replace)


def test_keys_are_fetched_at_the_start_and_the_loop_goes_on_after_a_failure(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.features.sign_in.access.key_set.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("ledger.features.sign_in.access.key_set.REFRESH_SECONDS", 0.01)

    async def go_on(keys: KeySet) -> None:
        keys.start()
        for answer in (None, Answer(500), Answer(action="drop"), None):
            provider.fail(answer)
            await asyncio.to_thread(provider.await_count, len(provider.requests) + 2)

    play(provider, go_on)


# Unknown key ids.


def test_a_thousand_unknown_key_ids_cause_one_fetch_per_retry_interval(provider: Provider) -> None:
    clock = Seconds()

    async def stampede(keys: KeySet) -> None:
        await keys.refresh()
        for fetches in (2, 3, 4):
            found = await asyncio.gather(*(finds(keys, f"mine-{n}") for n in range(1000)))
            assert not any(map(any, found))
            assert len(provider.requests) == fetches
            clock.now += RETRY_SECONDS - 0.01
            assert await finds(keys, "mine") == [False]
            assert len(provider.requests) == fetches
            clock.now += 0.02

    play(provider, stampede, clock)


def test_lookups_before_the_end_of_the_first_fetch_share_that_fetch(provider: Provider) -> None:
    async def begin(keys: KeySet) -> None:
        keys.start()
        found = await asyncio.gather(*(finds(keys, "ed-1") for _ in range(100)))
        assert all(map(all, found))
        assert len(provider.requests) == 1
        await asyncio.gather(*(keys.refresh() for _ in range(100)))
        assert len(provider.requests) == 2

    play(provider, begin)


def test_a_cancelled_lookup_does_not_cancel_the_fetch_for_others(provider: Provider) -> None:
    async def leave(keys: KeySet) -> None:
        first = asyncio.create_task(finds(keys, "ed-1"))
        second = asyncio.create_task(finds(keys, "ed-1"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == [True]

    play(provider, leave)


# Outages.

KEYS = json.dumps({"keys": [jwk("ed-1")]}).encode()
DOWN = {
    "refuses": Answer(503, KEYS),
    "drops": Answer(action="drop"),
    "redirects": Answer(302, headers={"location": "/keys?moved"}),
    "is empty": Answer(204),
    "says nothing of keys": Answer(body=b"{}"),
    "speaks HTML": Answer(body=b"<html></html>"),
    "is no HTTP server": Answer(body=b"SSH-2.0\r\n\r\n", action="raw"),
    "has no keys": Answer(body=b'{"keys": []}'),
    "answers deeply": Answer(body=b'{"keys": ' + b"[" * 100_000),
    "answers without end": Answer(body=b" " * (LARGEST + 1)),
    "packs its answer": Answer(200, gzip.compress(KEYS), {"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("how", DOWN)
def test_known_keys_stay_valid_for_an_hour_while_the_provider_is_away(
    provider: Provider, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Seconds()
    caplog.set_level(logging.INFO)

    async def be_away(keys: KeySet) -> None:
        await keys.refresh()
        key = await keys.find("ed-1", "EdDSA")
        assert key is not None
        provider.fail(DOWN[how])
        with pytest.raises(Unavailable):
            await keys.find("ed-2", "EdDSA")
        clock.now += MAX_AGE_SECONDS - 1
        assert await keys.find("ed-1", "EdDSA") is key
        assert keys.holds(key.thumbprint())
        clock.now += 1
        with pytest.raises(Unavailable):
            await keys.find("ed-1", "EdDSA")
        assert not keys.holds(key.thumbprint())
        provider.fail(None)
        clock.now += RETRY_SECONDS
        assert await finds(keys, "ed-1", "ed-2") == [True, False]
        assert keys.holds(key.thumbprint())

    play(provider, be_away, clock)
    assert [record.levelname for record in caplog.records if "key set" in record.message] == [
        "WARNING",
        "INFO",
    ]
    assert {request.path for request in provider.requests} == {"/keys"}


def test_lookups_are_unavailable_until_keys_were_fetched_once(provider: Provider) -> None:
    provider.fail(Answer(500))

    async def ask(keys: KeySet) -> None:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await keys.find("ed-1", "EdDSA")
        assert len(provider.requests) == 1

    play(provider, ask)


@pytest.mark.parametrize(
    "answer", [Answer(action="hang"), Answer(200, b"x" * 9_999, {}, 0.1, "drip")]
)
def test_a_lookup_waits_no_longer_than_the_deadline_of_two_seconds(
    provider: Provider, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DEADLINE_SECONDS == 2
    monkeypatch.setattr("ledger.features.sign_in.access.key_set.DEADLINE_SECONDS", 0.5)
    provider.fail(answer)

    async def wait(keys: KeySet) -> None:
        in_flight = asyncio.create_task(keys.refresh())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await keys.find("ed-1", "EdDSA")
            await in_flight

    play(provider, wait)
    assert len(provider.requests) == 1, (
        "a lookup that has waited for a fetch begins no second fetch"
    )


# Usable keys.


def test_keys_that_cannot_check_a_token_are_ignored() -> None:
    ours = jwk("rsa-1")
    odd: list[Any] = [
        None,
        "key",
        {},
        {"kty": "oct", "k": "AAAA", "kid": "oct", "alg": "HS256"},
        ours | {"kid": None},
        ours | {"kid": 1},
        ours | {"kid": ""},
        ours | {"kid": "x" * 201},
        ours | {"kid": "enc", "use": "enc"},
        ours | {"kid": "ops", "key_ops": ["encrypt"]},
        ours | {"kid": "ops 2", "key_ops": 1},
        OKPAlgorithm.to_jwk(private_key("ed-1"), as_dict=True) | {"kid": "private"},
        ours | {"kid": "hmac", "alg": "HS256"},
        ours | {"kid": "none", "alg": "none"},
        ours | {"kid": "oaep", "alg": "RSA-OAEP"},
        ours | {"kid": "ec", "alg": "ES256"},
        ours | {"kid": "n", "n": 5},
        ours | {"kid": "e", "e": ""},
        jwk("ec-1", x="AAAA"),
        jwk("ec-1", crv="P-257"),
        jwk("k1-1"),
    ]
    document = json.dumps({"keys": [*odd, ours]}).encode()
    assert set(parse_keys(document)) == {("rsa-1", "RS256")}
    with pytest.raises(UnusableAnswer):
        parse_keys(json.dumps({"keys": odd}).encode())


def test_a_key_without_an_algorithm_serves_the_usual_algorithm_of_its_kind() -> None:
    names = ("rsa-1", "ec-1", "ec384-1", "ec521-1", "ed-1")
    bare = [jwk(name) for name in names]
    for key in bare:
        del key["alg"], key["use"]
    keys = parse_keys(json.dumps({"keys": bare}).encode())
    usual = ("RS256", "ES256", "ES384", "ES512", "EdDSA")
    assert set(keys) == set(zip(names, usual, strict=True))


def test_the_first_of_two_keys_with_the_same_id_counts() -> None:
    first, second = jwk("ed-1"), jwk("ed-2", kid="ed-1")
    both = parse_keys(json.dumps({"keys": [first, second]}).encode())
    alone = parse_keys(json.dumps({"keys": [first]}).encode())
    assert both["ed-1", "EdDSA"].thumbprint() == alone["ed-1", "EdDSA"].thumbprint()


def test_at_most_a_hundred_keys_of_a_set_are_used() -> None:
    many = [jwk("ed-1", kid=f"ed-{n}") for n in range(101)]
    keys = parse_keys(json.dumps({"keys": many}).encode())
    assert len(keys) == 100
