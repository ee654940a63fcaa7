"""Sizes: at the limit it passes, one byte or item more is a 413 (contract 2)."""

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
    """A check-in whose JSON has this many bytes."""
    bare = encode(event := fact("execution.checked_in", line, {"note": ""}))
    event["data"]["note"] = "x" * (size - len(bare))
    return encode(event)


def test_a_fact_may_have_256_kib_and_no_more(edge: Edge, line: str) -> None:
    assert edge.send(sized(line, FACT)).status_code == 201
    before = edge.log()
    assert_problem(edge.send(sized(line, FACT + 1)), 413, "too_large")
    assert edge.log() == before


def test_of_facts_that_are_refused_nothing_is_held(edge: Edge) -> None:
    """A refusal and its way up held each other, and so the fact: 0.7 MB each until collected."""
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


def test_in_binary_mode_headers_count_too(edge: Edge, line: str) -> None:
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


def test_an_answer_tells_fifty_faults_of_one_kind_and_no_more(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    many = dict.fromkeys((f"A{n}" for n in range(20_000)), 0)
    for wrong in (event | many, event | {"data": many}):
        problem = assert_problem(edge.send(wrong), 422, "invalid_request")
        assert len(problem["errors"]) == 50
    unknown = "&".join(f"a{n}=1" for n in range(2_000))
    problem = assert_problem(edge.get(f"/v1/execution?{unknown}"), 422, "invalid_request")
    assert len(problem["errors"]) == 50


def test_an_empty_batch_is_a_batch(edge: Edge) -> None:
    answer = edge.send_batch()
    assert (answer.status_code, answer.json()) == (200, {"data": []})


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
    # A proxy or httptools refuses these too; behind another server they would reach us.
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    assert edge.post("/v1/facts", content=b"{}", headers=headers).status_code < 500


@pytest.mark.parametrize("part", [b"[", b"[{"])
def test_what_takes_long_to_be_taken_apart_holds_up_nobody(edge: Edge, part: bytes) -> None:
    stranger, body = edge.token("audit:read"), part * 1_500_000
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(edge.post, "/v1/facts", stranger, content=body, headers=BATCH)
        meanwhile = 0
        while not answer.done():
            assert edge.get("/healthz").status_code == 200
            meanwhile += 1
    assert_problem(answer.result(), 403, "forbidden")
    # Each is a turn of the event loop: it has some hundreds in the time that the parser takes.
    assert meanwhile > 30
