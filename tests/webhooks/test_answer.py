"""Answers of every odd form: what they mean, where they end, and what becomes of the connection."""

import pytest

from ledger.features.webhooks.client.answer import NoAnswer, ReceiverAnswer

FINE = b"HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 Fine\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching\r\nupgrade: any\r\nconnection: upgrade\r\n\r\n"
OTHER = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"

# In one piece, byte by byte, and in two halves.
CUTS = pytest.mark.parametrize("size", [1_000_000, 1, 40], ids=["whole", "bytes", "halves"])


def fed(data: bytes, size: int) -> ReceiverAnswer:
    """The answer after data that comes in pieces of a size. Raises NoAnswer."""
    answer = ReceiverAnswer()
    for begin in range(0, len(data), size):
        if not answer.is_over:
            answer.feed(data[begin : begin + size])
    return answer


@CUTS
@pytest.mark.parametrize(
    "data",
    [
        FINE,
        b"\r\n" + FINE,
        b"HTTP/1.1 204 Empty\r\n\r\n",
        b"HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 Fine\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 Fine\ncontent-length: 2\n\nok",
        CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nx: trailer\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\n" + FINE,
        HEAD + b"upgrade: any\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nok",
    ],
    ids=range(11),
)
def test_a_whole_answer_keeps_its_connection(data: bytes, size: int) -> None:
    answer = fed(data, size)
    assert answer.status in (200, 204, 304)
    assert answer.is_over
    assert answer.keeps_connection


@pytest.mark.parametrize("behind", [b"\r", b"\n", b"\0", OTHER, OTHER * 2], ids=range(5))
@pytest.mark.parametrize(
    "data",
    [
        FINE,
        b"HTTP/1.1 204 Empty\r\n\r\n",
        b"HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\n",
        CHUNKED + b"0\r\n\r\n",
        CHUNKED + b"0\r\nx: trailer\r\n\r\n",
        b"HTTP/1.1 200 Fine\ncontent-length: 2\n\nok",
        UPGRADE,
        b"HTTP/1.1 101 Switching\r\n\r\n",
        # Ends exactly at the limit of bytes before it.
        HEAD + b"content-length: 0\r\nx: " + b"a" * (64 * 1024 - 45) + b"\r\n\r\n",
    ],
    ids=range(9),
)
def test_an_answer_with_bytes_behind_it_counts_alone_and_keeps_nothing(
    data: bytes, behind: bytes
) -> None:
    answer = fed(data + behind, 1_000_000)
    assert answer.status in (101, 200, 204, 304)
    assert answer.is_over
    assert not answer.keeps_connection


@CUTS
@pytest.mark.parametrize(
    "data",
    [
        UPGRADE,
        b"HTTP/1.1 101 Switching\r\n\r\n",
        HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 Fine\r\ncontent-length: 2\r\n\r\nok",
        HEAD + b"\r\nup to the end of the connection",
        HEAD + b"content-length: 2\r\n\r\no",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"0\r\nx: trailer\r\n",
        HEAD + b"transfer-encoding: gzip\r\n\r\nok",
    ],
    ids=range(9),
)
def test_an_answer_that_the_connection_must_not_outlive_keeps_nothing(
    data: bytes, size: int
) -> None:
    answer = fed(data, size)
    assert answer.status in (101, 200)
    assert not answer.keeps_connection


@CUTS
@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"content-length: -2\r\n\r\nok",
        HEAD + b"content-length: +2\r\n\r\nok",
        HEAD + b"content-length: 99999999999999999999\r\n\r\nok",
        HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        HEAD + b"x: folded\r\n value\r\ncontent-length: 2\r\n\r\nok",
        HEAD + b"content-length : 2\r\n\r\nok",
        HEAD + b"x: \0\r\n\r\n",
        HEAD + b"x: y\rz: a\r\n\r\n",
        b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 2000 High\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"a:\r\n" * 1001 + b"\r\n",
        b"\r\n" * 33_000,
    ],
    ids=range(14),
)
def test_an_answer_of_another_form_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(NoAnswer):
        fed(data, size)


@pytest.mark.parametrize(
    "rest",
    [b"no size\r\n", b"1\r\na\r\n" * 1001, b"0\r\n" + b"a:\r\n" * 1001, b"f" * 20 + b"\r\n"],
    ids=range(4),
)
def test_a_body_that_goes_wrong_ends_behind_a_head_that_counts(rest: bytes) -> None:
    answer = ReceiverAnswer()
    with pytest.raises(NoAnswer):
        answer.feed(CHUNKED + rest)
    assert answer.status == 200
    assert not answer.keeps_connection


def test_only_the_final_head_says_when_to_try_again() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nretry-after: 1\r\n\r\n"
    busy = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n0\r\nretry-after: 2\r\n\r\n"
    assert fed(hint + busy, 1_000_000).retry_after is None
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\ncontent-length: 0\r\n\r\n"
    assert fed(hint + busy, 1_000_000).retry_after == "3"
