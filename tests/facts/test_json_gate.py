"""JSON that refuses the whole body, and JSON that refuses one item alone (contract, Facts)."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import LINE, activation, encode, fact
from tests.support.service import BATCH, STRUCTURED, Service

Test = Callable[[Service], Awaitable[None]]
Play = Callable[[Test], None]

ITEMS: dict[str, bytes] = {
    "duplicate keys": b'{"id": "a", "id": "b"}',
    "duplicate keys spelt differently": b'{"id": "a", "\\u0069d": "b"}',
    "NUL": b'{"id": "a\\u0000"}',
    "an integer beyond 2^53 - 1": b'{"data": 9007199254740992}',
    "an integer of thousands of digits": b'{"data": ' + b"9" * 5000 + b"}",
    "a number beyond a double": b'{"data": 1e400}',
    "depth over 32": b'{"data": ' + b"[" * 40 + b"]" * 40 + b"}",
    "depth over every parser": b'{"data": ' + b"[" * 9000 + b"]" * 9000 + b"}",
    "no object": b"7",
}
SURROGATE = b'{"id": "a\\ud800"}'
BROKEN: dict[str, bytes] = {
    "NaN": b'{"data": NaN}',
    "Infinity": b'{"data": -Infinity}',
    "a raw control character": b'{"data": "\x01"}',
    "bad UTF-8": b'{"data": "\xff"}',
    "an encoded surrogate": b'{"data": "\xed\xa0\x80"}',
    "a cut": b'{"data": ',
    "a comma too many": b'{"data": [1,]}',
}


@pytest.fixture(scope="module")
def play(edge: Edge) -> Play:
    """Run a test against a service that has one line, and that the module's tests share."""
    edge.accept(activation())
    return lambda test: edge.run(test(edge.service))


async def post(service: Service, body: bytes, headers: dict[str, str] = BATCH) -> Any:
    return await service.http.post("/v1/facts", content=body, headers=headers)


async def surrounded(service: Service, item: bytes) -> tuple[int, list[Any]]:
    """(status, statuses of refused items) of a batch with the item between two good facts."""
    good = [encode(fact("execution.checked_in", LINE)) for _ in range(2)]
    answer = await post(service, b"[" + good[0] + b", " + item + b"," + good[1] + b"]")
    if answer.status_code != 200:
        return answer.status_code, []
    return 200, [i["error"] and i["error"]["status"] for i in answer.json()["data"]]


def test_json_on_which_parsers_disagree_refuses_its_item_only(play: Play) -> None:
    async def test(service: Service) -> None:
        for name, item in ITEMS.items():
            assert await surrounded(service, item) == (200, [None, 422, None]), name
            assert (await post(service, item, STRUCTURED)).status_code == 422, name

    play(test)


def test_a_lone_surrogate_refuses_its_item_only(play: Play) -> None:
    async def test(service: Service) -> None:
        assert (await post(service, SURROGATE, STRUCTURED)).status_code == 422
        assert await surrounded(service, SURROGATE) == (200, [None, 422, None])

    play(test)


def test_broken_json_refuses_the_whole_body(play: Play) -> None:
    async def test(service: Service) -> None:
        for name, item in BROKEN.items():
            assert (await surrounded(service, item))[0] == 400, name
        for body in (b"", b" ", b"[", b"{", b"\xef\xbb\xbf[]", b"[]]"):
            assert (await post(service, body)).status_code == 400, body[:9]
        for name, item in BROKEN.items():
            assert (await post(service, item, STRUCTURED)).status_code == 400, name

    play(test)


@pytest.mark.parametrize("tail", [b"", b"]" * 100_000 + b"]] rubbish"])
def test_a_deeply_nested_body_that_is_not_json_is_a_400(play: Play, tail: bytes) -> None:
    async def test(service: Service) -> None:
        good = encode(fact("execution.checked_in", LINE))
        answer = await post(service, b"[" + good + b"," + b"[" * 100_000 + tail)
        assert answer.status_code == 400

    play(test)


def test_a_body_an_item_or_a_batch_over_its_size_limit_is_a_413(play: Play) -> None:
    async def test(service: Service) -> None:
        large = encode(fact("execution.checked_in", LINE, {"note": "x" * 256 * 1024}))
        assert await surrounded(service, large) == (200, [None, 413, None])
        assert (await post(service, large, STRUCTURED)).status_code == 413
        fits = fact("execution.checked_in", LINE, {"note": ""})
        fits["data"]["note"] = "x" * (256 * 1024 - len(encode(fits)))
        assert len(encode(fits)) == 256 * 1024
        assert (await post(service, encode(fits), STRUCTURED)).status_code == 201
        assert (await post(service, b"[" + b",".join([b"7"] * 1001) + b"]")).status_code == 413
        assert (await post(service, b" " * (8 * 1024 * 1024) + b"[]")).status_code == 413

    play(test)


def test_outcomes_of_a_batch_are_in_order_and_its_status_is_always_200(play: Play) -> None:
    async def test(service: Service) -> None:
        assert (await post(service, b"[]")).json() == {"data": []}
        good, bad = fact("execution.checked_in", LINE), fact("service_line.resumed", LINE)
        items = await service.report(good, bad, good)
        assert [i["index"] for i in items] == [0, 1, 2]
        assert [i["outcome"] for i in items] == ["recorded", "refused", "duplicate"]
        assert items[1]["error"].keys() == {"status", "code", "detail", "errors"}
        assert items[1]["error"]["errors"] == []
        assert (items[1]["position"], items[1]["event_ids"]) == (None, [])
        again = await post(service, encode(good), STRUCTURED)
        assert (again.status_code, again.json()["data"]["position"]) == (200, items[0]["position"])
        fresh = await post(service, encode(fact("execution.checked_in", LINE)), STRUCTURED)
        assert fresh.status_code == 201
        assert await service.refuse(bad) == (409, "invalid_state")

    play(test)


def test_a_credential_without_write_permission_gets_a_403_whatever_it_sends(play: Play) -> None:
    async def test(service: Service) -> None:
        token = await service.token("read")
        headers = STRUCTURED | {"authorization": f"Bearer {token}"}
        for event in (fact("run.completed", "RUN-26-000009"), fact("nonsense", "x")):
            assert (await post(service, encode(event), headers)).status_code == 403

    play(test)


BINARY = {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "b%201",
    "ce-source": "/binary",
    "ce-type": "service_line.updated",
    "ce-subject": LINE,
}


def test_a_fact_in_binary_mode_equals_the_same_fact_in_structured_mode(play: Play) -> None:
    async def test(service: Service) -> None:
        data = {"project_tags": ["a"]}
        first = await post(service, encode(data), BINARY)
        assert first.status_code == 201
        same = fact("service_line.updated", LINE, data, id="b 1", source="/binary")
        assert (await service.report(same))[0]["outcome"] == "duplicate"
        for body in (b"{", b'{"project_tags": NaN}', b"\xef\xbb\xbf{}"):
            assert (await post(service, body, BINARY)).status_code == 400

    play(test)


def test_binary_data_must_be_one_json_value(play: Play) -> None:
    async def test(service: Service) -> None:
        body = json.dumps({"project_tags": []}).encode() + b',"more":1'
        assert (await post(service, body, BINARY)).status_code == 400

    play(test)


def test_an_instant_before_the_calendar_refuses_its_item_only(play: Play) -> None:
    async def test(service: Service) -> None:
        item = encode(fact("execution.checked_in", LINE, time="0001-01-01T00:00:00+01:00"))
        assert await surrounded(service, item) == (200, [None, 422, None])

    play(test)
