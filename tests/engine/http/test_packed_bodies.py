"""Gzipped request bodies: the limits hold for the unpacked body (contract, Access)."""

import gzip
import json
import resource
import zlib
from typing import Any

import pytest

from ledger.engine.http.machinery import bodies
from ledger.features.facts.envelope import MAX_BODY_BYTES
from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import encode, fact
from tests.support.service import BATCH, STRUCTURED
from tests.support.visitor import visitor

PACKED = {"content-encoding": "gzip"}
COMMAND_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


def bomb(size: int) -> bytes:
    """``size`` spaces as gzip, which is a thousandth of that size."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    parts = [packing.compress(b" " * 2**20) for _ in range(size // 2**20)]
    return b"".join((*parts, packing.compress(b" " * (size % 2**20)), packing.flush()))


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", " gzip ", "identity", "Identity"])
def test_a_fact_may_be_sent_as_gzip_or_as_identity(edge: Edge, line: str, coding: str) -> None:
    body = encode(fact("execution.checked_in", line))
    sent = gzip.compress(body) if "gz" in coding.lower() else body
    answer = edge.post("/v1/facts", content=sent, headers=STRUCTURED | {"content-encoding": coding})
    assert answer.status_code == 201, answer.text
    again = edge.post("/v1/facts", content=body, headers=STRUCTURED)
    assert (again.status_code, again.json()["data"]["outcome"]) == (200, "duplicate")


def test_a_packed_batch_of_almost_8_mib_is_recorded(edge: Edge, line: str) -> None:
    note = "one and the same note " * 380
    items = [encode(fact("execution.checked_in", line, {"note": note})) for _ in range(900)]
    body = b"[" + b",".join(items) + b"]"
    assert MAX_BODY_BYTES * 0.9 < len(body) < MAX_BODY_BYTES
    answer = edge.post("/v1/facts", content=gzip.compress(body), headers=BATCH | PACKED)
    assert {item["outcome"] for item in answer.json()["data"]} == {"recorded"}


def test_a_fact_in_binary_mode_may_be_packed(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    headers = {f"ce-{name}": value for name, value in event.items() if name != "data"}
    body = gzip.compress(json.dumps(event["data"]).encode())
    answer = edge.post("/v1/facts", content=body, headers=PLAIN | PACKED | headers)
    assert answer.status_code == 201, answer.text


def test_a_command_is_the_same_to_its_idempotency_key_packed_or_not(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh()}/pause"
    body, headers = b'{"reason": "r"}', PLAIN | {"idempotency-key": "packed-or-not"}
    first = edge.post(path, content=gzip.compress(body, 1), headers=headers | PACKED)
    assert first.json()["data"]["state"] == "paused"
    for sent, more in ((body, {}), (gzip.compress(body, 9, mtime=1), PACKED)):
        again = edge.post(path, content=sent, headers=headers | more)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.content == first.content
    other = edge.post(path, content=gzip.compress(b"{}"), headers=headers | PACKED)
    assert_problem(other, 422, "idempotency_key_reused")


def test_a_form_of_the_web_interface_may_be_packed(edge: Edge) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    path = f"/ui/lines/{edge.fresh()}/pause"
    fields = guest.get(path.removesuffix("/pause")).form(path) | {"reason": "r"}
    body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"} | PACKED
    answer = guest.request("POST", path, content=gzip.compress(body), headers=headers)
    assert answer.status == 303
    for sent, status in ((bomb(2**24), 413), (gzip.compress(body)[:-1], 400)):
        assert guest.request("POST", path, content=sent, headers=headers).status == status
        assert guest.request("POST", "/ui/sign-in", content=sent, headers=headers).status == status


def test_an_empty_body_that_is_declared_as_gzip_is_no_body(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh()}"
    edge.post(f"{path}/pause", json={"reason": "r"})
    assert edge.post(f"{path}/resume", headers=PACKED).json()["data"]["state"] == "running"


@pytest.mark.parametrize(
    "coding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, identity", "gzip;q=1", "x"]
)
def test_another_coding_is_a_415(edge: Edge, line: str, coding: str) -> None:
    body = gzip.compress(encode(fact("execution.checked_in", line)))
    headers = {"content-encoding": coding}
    before = edge.log()
    answer = edge.post("/v1/facts", content=body, headers=STRUCTURED | headers)
    assert_problem(answer, 415, "unsupported_media_type")
    path = f"/v1/execution/{line}/pause"
    answer = edge.post(path, content=body, headers=PLAIN | headers)
    assert_problem(answer, 415, "unsupported_media_type")
    assert edge.log() == before


def test_a_body_with_two_codings_is_a_415(edge: Edge, line: str) -> None:
    body = gzip.compress(gzip.compress(encode(fact("execution.checked_in", line))))
    headers = [*STRUCTURED.items(), *PACKED.items(), *PACKED.items()]
    assert_problem(
        edge.post("/v1/facts", content=body, headers=headers), 415, "unsupported_media_type"
    )


def damaged(body: bytes) -> dict[str, bytes]:
    """Broken forms of a gzipped body, by name."""
    packed = gzip.compress(body)
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "not packed": body,
        "truncated": packed[:-1],
        "only its head": packed[:10],
        "one byte": packed[:1],
        "without its sum": packed[:-8],
        "another sum": packed[:-8] + bytes(4) + packed[-4:],
        "another length": packed[:-4] + bytes(4),
        "damaged": bytes(flipped),
        "followed by more": packed + b"x",
        "twice": packed + packed,
        "deflate alone": zlib.compress(body),
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_broken_gzip_is_a_400_that_changes_nothing(edge: Edge, line: str, kind: str) -> None:
    before = edge.log()
    body = damaged(encode(fact("execution.checked_in", line)))[kind]
    for headers in (STRUCTURED, BATCH, PLAIN | {"ce-id": "x"}):
        answer = edge.post("/v1/facts", content=body, headers=headers | PACKED)
        assert_problem(answer, 400, "invalid_request")
    body = damaged(b'{"reason": "because of this and that"}')[kind]
    path = f"/v1/execution/{line}/pause"
    assert_problem(edge.post(path, content=body, headers=PLAIN | PACKED), 400, "invalid_request")
    assert edge.log() == before


@pytest.mark.parametrize(("more", "status"), [(0, 400), (1, 413)])
def test_the_limit_of_a_body_holds_for_the_unpacked_body(
    edge: Edge, more: int, status: int
) -> None:
    path = f"/v1/execution/{edge.fresh()}/pause"
    for where, headers, limit in (
        ("/v1/facts", BATCH, MAX_BODY_BYTES),
        (path, PLAIN, COMMAND_BYTES),
    ):
        answer = edge.post(where, content=bomb(limit + more), headers=headers | PACKED)
        code = "too_large" if status == 413 else "invalid_request"
        assert_problem(answer, status, code)


def test_the_limit_of_a_fact_holds_for_the_unpacked_fact(edge: Edge, line: str) -> None:
    event: dict[str, Any] = fact("execution.checked_in", line) | {"more": "x" * 300_000}
    answer = edge.post(
        "/v1/facts", content=gzip.compress(encode(event)), headers=STRUCTURED | PACKED
    )
    assert_problem(answer, 413, "too_large")


def test_the_limit_of_a_body_holds_for_the_packed_bytes_too(edge: Edge, line: str) -> None:
    """A large gzip body may unpack to little: the file name in its head has no limit."""
    body = encode(fact("execution.checked_in", line))
    packed = gzip.compress(body)
    named = packed[:3] + b"\x08" + packed[4:10] + b"n" * MAX_BODY_BYTES + b"\0" + packed[10:]
    assert gzip.decompress(named) == body

    async def parts() -> Any:
        for start in range(0, len(named), 2**16):
            yield named[start : start + 2**16]

    for content in (named, parts()):
        answer = edge.post("/v1/facts", content=content, headers=STRUCTURED | PACKED)
        assert_problem(answer, 413, "too_large")


def test_a_gzip_bomb_is_unpacked_no_further_than_the_limit(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that would unpack to 128 MiB costs neither the time nor the memory of 128 MiB."""
    unpacked = 0

    class Counting:
        """A decompressor of zlib that counts the bytes that it returns."""

        def __init__(self, *arguments: Any) -> None:
            self._stream: Any = decompressobj(*arguments)

        def decompress(self, *arguments: Any) -> bytes:
            nonlocal unpacked
            plain: bytes = self._stream.decompress(*arguments)
            unpacked += len(plain)
            return plain

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    decompressobj = zlib.decompressobj
    monkeypatch.setattr(f"{bodies.__name__}.zlib.decompressobj", Counting)
    body = bomb(2**27)
    assert len(body) < 2**19
    edge.post("/v1/facts", content=bomb(MAX_BODY_BYTES + 1), headers=BATCH | PACKED)
    before, unpacked = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(5):
        answer = edge.post("/v1/facts", content=body, headers=BATCH | PACKED)
        assert_problem(answer, 413, "too_large")
    assert unpacked <= 5 * (MAX_BODY_BYTES + 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
