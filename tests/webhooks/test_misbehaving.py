"""Attempts at receivers that misbehave: their errors and their deadlines."""

import asyncio
import contextlib
import random
import socket

import pytest

from ledger.features.webhooks.client import answer
from ledger.features.webhooks.delivery.sender import Attempt, Sender
from tests.support.receiver import Answer, Receiver, Request
from tests.webhooks.sending import (
    BODY,
    EVENT,
    ORG,
    SECRET,
    SOON,
    Stopwatch,
    answers,
    failed,
    now,
    send,
    send_all,
    send_to,
)

FINE = b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\n\r\nhello"


def test_a_receiver_that_never_answers_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Stopwatch()
    monkeypatch.setattr("ledger.features.webhooks.delivery.sender.time", watch)

    def hang(request: Request) -> Answer:
        watch.seconds += 0.213
        return Answer(action="hang")

    with Receiver(hang) as receiver:
        attempt = send(receiver.url, deadline=SOON)
        assert failed(attempt) == "timed out"
        assert attempt.latency_ms == 213, "the latency of a failure is the time until it"
        receiver.await_closed()


def test_a_receiver_that_drips_its_head_ends_at_the_deadline() -> None:
    """Each byte restarts a time-out between reads: only an absolute deadline ends the attempt."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.ensure_future(reader.read())
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 Fine\r\nx-slow: " + b"a" * 1000:
                writer.write(bytes([byte]))
                await writer.drain()
                if (await asyncio.wait({ended}, timeout=0.02))[0]:
                    break
        ended.cancel()
        writer.close()

    assert failed(send_to(drip, "http")) == "timed out"


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_whose_head_was_in_time_counts_though_its_body_drips(status: int) -> None:
    answer = Answer(status, b"a" * 1000, delay_seconds=0.02, action="drip")
    with answers(answer) as receiver:
        attempt = send(receiver.url, deadline=SOON)
        receiver.await_closed()
    assert (attempt.response_status, attempt.delivered) == (status, status == 200)
    assert attempt.response_body is not None
    assert 1 <= len(attempt.response_body) < 1000, "the sender does not wait for the whole body"


def test_an_answer_whose_body_breaks_off_counts() -> None:
    head = b"HTTP/1.1 200 Fine\r\ncontent-length: 100\r\n\r\n"
    with answers(Answer(action="raw", body=head + b"partly")) as receiver:
        attempt = send(receiver.url)
    assert attempt.delivered
    assert attempt.response_body == "partly"


def test_a_receiver_that_closes_without_an_answer_is_a_failure() -> None:
    with answers(Answer(action="drop")) as receiver:
        assert failed(send(receiver.url)) == "no HTTP answer came"


def test_a_receiver_that_closes_before_it_reads_is_a_failure() -> None:
    with Receiver(accept=lambda connection: False) as receiver:
        assert failed(send(receiver.url)) in ("no HTTP answer came", "the connection broke")
        assert receiver.requests == []


def test_a_port_that_nobody_listens_on_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert failed(send(f"http://127.0.0.1:{port}/")) == "connection refused"


def test_a_name_that_does_not_exist_does_not_resolve() -> None:
    assert failed(send("http://hooks..example/")) == "the name does not resolve"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nx-long: " + b"a" * 200_000,
        b"\0" * 1000,
        b"\xff\xfe",
        b"",
    ],
    ids=range(10),
)
def test_an_answer_that_is_not_http_is_a_failure(answer: bytes) -> None:
    with answers(Answer(action="raw", body=answer)) as receiver:
        error = failed(send(receiver.url))
    assert error in ("no HTTP answer came", "the connection broke", TOO_MUCH)


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
TOO_MUCH = "more than 64 KiB came before the answer"


@pytest.mark.parametrize("many", [8, 9])
def test_at_most_8_informational_answers_may_come_before_an_answer(many: int) -> None:
    with answers(Answer(action="raw", body=EARLY_HINTS * many + FINE)) as receiver:
        attempt = send(receiver.url)
    if many == 8:
        assert attempt.delivered
    else:
        assert failed(attempt) == "more than 8 informational answers came"


@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize("before", [b"", EARLY_HINTS * 8])
def test_at_most_64_kib_may_come_before_the_end_of_the_head(before: bytes, surplus: int) -> None:
    head = before + b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\nx: %s\r\n\r\n"
    padding = b"a" * (64 * 1024 - len(head) + len(b"%s") + surplus)
    with answers(Answer(action="raw", body=head % padding + b"hello")) as receiver:
        attempt = send(receiver.url)
    if surplus == 0:
        assert (attempt.response_status, attempt.response_body) == (200, "hello")
    else:
        assert failed(attempt) == TOO_MUCH


def test_informational_answers_without_end_are_left_at_once() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(EARLY_HINTS * 1000)
                await writer.drain()

    attempt = send_to(flood, "http", deadline=30)
    assert failed(attempt) == "more than 8 informational answers came"


def test_an_answer_in_many_small_pieces_costs_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces that arrive meanwhile are read together."""
    reads: list[int] = []
    feed = answer.ReceiverAnswer.feed

    def counted(self: answer.ReceiverAnswer, data: bytes) -> None:
        reads.append(len(data))
        feed(self, data)

    monkeypatch.setattr(answer.ReceiverAnswer, "feed", counted)
    with answers(Answer(body=b"a" * 400, delay_seconds=0.001, action="drip")) as receiver:
        attempt = send(receiver.url)
    assert (attempt.response_status, attempt.response_body) == (200, "a" * 400)
    assert sum(reads) > 400
    assert len(reads) < 100


def test_switching_protocols_is_a_failure() -> None:
    head = b"HTTP/1.1 101 Switching\r\nupgrade: any\r\nconnection: upgrade\r\n\r\nhello"
    with answers(Answer(action="raw", body=head)) as receiver:
        assert not send(receiver.url, deadline=SOON).delivered


def test_no_mutated_answer_makes_the_sender_raise() -> None:
    """A good answer is cut, changed or doubled at random."""
    chance = random.Random(42)
    good = b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\nretry-after: 7\r\n\r\nhello"

    def script(request: Request) -> Answer:
        answer = bytearray(good * chance.choice([1, 1, 2]))
        for _ in range(chance.randrange(4)):
            answer[chance.randrange(len(answer))] = chance.randrange(256)
        return Answer(action="raw", body=bytes(answer[: chance.randrange(len(answer) + 1)]))

    with Receiver(script) as receiver:
        attempts = send_all([receiver.url] * 300)
    statuses = {attempt.response_status for attempt in attempts}
    assert {None, 200} <= statuses


def test_a_hanging_receiver_delays_no_other_receiver() -> None:
    async def run(slow: str, quick: str) -> list[Attempt]:
        async with Sender(True, now, deadline=30) as sender:
            waiting = [
                asyncio.ensure_future(sender.send(slow, EVENT, BODY, [SECRET], ORG))
                for _ in range(200)
            ]
            attempts = await asyncio.gather(
                *(sender.send(quick, EVENT, BODY, [SECRET], ORG) for _ in range(100))
            )
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return attempts

    with answers(Answer(action="hang")) as slow, Receiver() as quick:
        attempts = asyncio.run(run(slow.url, quick.url))
        slow.await_closed()
    assert all(attempt.delivered for attempt in attempts)


def test_a_send_that_is_cancelled_leaves_no_connection_open() -> None:
    async def run(receiver: Receiver) -> None:
        async with Sender(True, now) as sender:
            task = asyncio.ensure_future(sender.send(receiver.url, EVENT, BODY, [SECRET], ORG))
            await asyncio.to_thread(receiver.await_count, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(receiver.await_closed)

    with answers(Answer(action="hang")) as receiver:
        asyncio.run(run(receiver))
