"""Sizes: a body at its limit passes, and a byte or an item more is a 413 (contract, Facts)."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import encode, fact
from tests.support.service import BATCH, STRUCTURED

FACT = 256 * 1024
BODY = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


def sized(line: str, size: int) -> bytes:
    """A check-in whose JSON has ``size`` bytes."""
    bare = encode(event := fact("execution.checked_in", line, {"note": ""}))
    event["data"]["note"] = "x" * (size - len(bare))
    return encode(event)


def test_a_fact_may_have_256_kib_and_no_more(edge: Edge, line: str) -> None:
    assert edge.send(sized(line, FACT)).status_code == 201
    before = edge.log()
    assert_problem(edge.send(sized(line, FACT + 1)), 413, "too_large")
    assert edge.log() == before


def test_refused_facts_do_not_stay_in_memory(edge: Edge) -> None:
    """A cycle of a refusal and its traceback would hold the fact, 0.7 MB, until it is collected."""
    unknown = sized(edge.fresh_id(), FACT)
    edge.send(unknown)
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(20):
            assert edge.send(unknown).status_code == 404
        assert tracemalloc.get_traced_memory()[0] < 10 * FACT
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_fact_that_is_too_large_is_refused_alone_in_its_batch(edge: Edge, line: str) -> None:
    good = [fact("execution.checked_in", line) for _ in range(2)]
    answer = edge.send_batch(good[0], sized(line, FACT + 1), sized(line, FACT), good[1])
    items = answer.json()["data"]
    outcomes = ["recorded", "refused", "recorded", "recorded"]
    assert [item["outcome"] for item in items] == outcomes
    assert (items[1]["error"]["status"], items[1]["error"]["code"]) == (413, "too_large")


def test_attributes_in_headers_count_towards_the_size_of_a_fact(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    headers = PLAIN | {f"ce-{k}": v for k, v in event.items() if k != "data"}
    room = FACT - sum(len(value) for name, value in event.items() if name != "data")
    text = b'{"note": "%s"}' % (b"x" * (room - len(b'{"note": ""}')))
    assert edge.post("/v1/facts", content=text, headers=headers).status_code == 201
    longer = headers | {"ce-source": event["source"] + "x"}
    assert_problem(edge.post("/v1/facts", content=text, headers=longer), 413, "too_large")


def test_a_batch_may_have_1000_items_and_no_more(edge: Edge, line: str) -> None:
    assert len(edge.accept(*(fact("execution.checked_in", line) for _ in range(1000)))) == 1000
    before = edge.log()
    answer = edge.send_batch(*(fact("execution.checked_in", line) for _ in range(1001)))
    assert_problem(answer, 413, "too_large")
    assert edge.log() == before


def test_an_answer_names_at_most_fifty_faults_of_one_kind(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    many = dict.fromkeys((f"A{n}" for n in range(20_000)), 0)
    for wrong in (event | many, event | {"data": many}):
        problem = assert_problem(edge.send(wrong), 422, "invalid_request")
        assert len(problem["errors"]) == 50
    unknown = "&".join(f"a{n}=1" for n in range(2_000))
    problem = assert_problem(edge.get(f"/v1/execution?{unknown}"), 422, "invalid_request")
    assert len(problem["errors"]) == 50


def test_outcomes_of_a_batch_are_in_order_and_its_status_is_always_200(edge: Edge) -> None:
    empty, line = edge.send_batch(), edge.fresh()
    assert (empty.status_code, empty.json()) == (200, {"data": []})
    good, bad = fact("execution.checked_in", line), fact("service_line.resumed", line)
    answer = edge.send_batch(good, bad, good)
    items = answer.json()["data"]
    assert answer.status_code == 200
    assert [item["index"] for item in items] == [0, 1, 2]
    assert [item["outcome"] for item in items] == ["recorded", "refused", "duplicate"]
    assert items[1]["error"].keys() == {"status", "code", "detail", "errors"}
    assert (items[1]["error"]["code"], items[1]["error"]["errors"]) == ("invalid_state", [])
    assert (items[1]["position"], items[1]["event_ids"]) == (None, [])
    again = edge.send(good)
    assert (again.status_code, again.json()["data"]["position"]) == (200, items[0]["position"])
    assert_problem(edge.send(bad), 409, "invalid_state")


def test_a_body_may_have_8_mib_and_no_more(edge: Edge, line: str) -> None:
    good = encode(fact("execution.checked_in", line))
    padded = b"[" + good + b"]"
    full = padded + b" " * (BODY - len(padded))
    answer = edge.post("/v1/facts", content=full, headers=BATCH)
    assert answer.json()["data"][0]["outcome"] == "recorded"
    before = edge.log()
    for headers in (BATCH, STRUCTURED, PLAIN):
        answer = edge.post("/v1/facts", content=full + b" ", headers=headers)
        assert_problem(answer, 413, "too_large")
    assert edge.log() == before


def test_a_body_of_unknown_length_is_stopped_at_the_limit(edge: Edge) -> None:
    async def parts():  # type: ignore[no-untyped-def]
        for _ in range(9):
            yield b" " * 1024 * 1024

    assert_problem(edge.post("/v1/facts", content=parts(), headers=BATCH), 413, "too_large")


@pytest.mark.parametrize("length", [b"9" * 5000, b"\xb2"], ids=["5,000 digits", "a superscript"])
def test_an_absurd_content_length_is_no_server_error(edge: Edge, length: bytes) -> None:
    # A proxy or httptools refuses such lengths; another server would let them pass.
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    assert edge.post("/v1/facts", content=b"{}", headers=headers).status_code < 500


@pytest.mark.parametrize("part", [b"[", b"[{"])
def test_a_body_that_is_slow_to_parse_does_not_block_other_requests(
    edge: Edge, part: bytes
) -> None:
    stranger, body = edge.token("audit:read"), part * 700_000
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(edge.post, "/v1/facts", stranger, content=body, headers=BATCH)
        meanwhile = 0
        while not answer.done():
            assert edge.get("/healthz").status_code == 200
            meanwhile += 1
    assert_problem(answer.result(), 403, "forbidden")
    # Each request takes an iteration of the event loop, which makes some hundred iterations
    # meanwhile.
    assert meanwhile > 15
