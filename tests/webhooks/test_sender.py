"""An attempt: its request, its permitted targets, and the meaning of its answer."""

import asyncio
from datetime import timedelta
from email.utils import format_datetime

import pytest
from standardwebhooks import Webhook

from ledger import __version__
from ledger.features.webhooks.delivery.sender import Sender
from ledger.features.webhooks.delivery.signing import create_secret
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
from tests.webhooks.targets import FORBIDDEN_HOSTS

# The request


def test_a_receiver_gets_the_body_as_it_is_and_can_verify_it() -> None:
    body = '{"reason": "Zoë  wartet",\n"sequence": 1}'.encode()
    with Receiver() as receiver:
        attempt = send(f"{receiver.url}/in;a=b/c?d=e;f", body)
        (request,) = receiver.requests
    assert attempt.delivered
    assert (request.method, request.path, request.body) == ("POST", "/in;a=b/c?d=e;f", body)
    Webhook(SECRET).verify(request.body, dict(request.headers))
    assert request.headers["webhook-id"] == EVENT
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == f"execution-ledger/{__version__}"


def test_both_secrets_sign_during_a_rotation() -> None:
    old = create_secret()

    async def run(url: str) -> None:
        async with Sender(True, now) as sender:
            await sender.send(url, EVENT, BODY, [SECRET, old], ORG)

    with Receiver() as receiver:
        asyncio.run(run(receiver.url))
        (request,) = receiver.requests
    for secret in (SECRET, old):
        Webhook(secret).verify(request.body, dict(request.headers))


# The meaning of the answer


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    with answers(Answer(status)) as receiver:
        attempt = send(receiver.url)
    assert attempt.delivered
    assert (attempt.response_status, attempt.error) == (status, None)


@pytest.mark.parametrize("status", [300, 304, 400, 404, 410, 429, 500, 503])
def test_any_other_status_is_not_delivered(status: int) -> None:
    with answers(Answer(status)) as receiver:
        attempt = send(receiver.url)
    assert not attempt.delivered
    assert attempt.response_status == status
    assert attempt.gone == (status == 410)


def test_an_attempt_has_the_time_at_which_it_began() -> None:
    first = now()
    times = iter([first, *(first + timedelta(seconds=n) for n in range(1, 10))])
    with Receiver() as receiver:
        assert send(receiver.url, clock=lambda: next(times)).at == first


def test_the_latency_is_the_time_until_the_head_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Stopwatch()
    monkeypatch.setattr("ledger.features.webhooks.delivery.sender.time", watch)
    monkeypatch.setattr("ledger.features.webhooks.client.answer.time", watch)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        watch.seconds += 0.057
        writer.write(b"HTTP/1.1 200 Fine\r\ncontent-length: 3\r\n\r\n")
        while watch.times_read < 2:
            await asyncio.sleep(0.001)
        watch.seconds += 10
        writer.write(b"abc")
        await writer.drain()

    attempt = send_to(talk, "http", deadline=10)
    assert (attempt.latency_ms, attempt.response_body) == (57, "abc")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    with Receiver() as elsewhere:
        redirect = Answer(status, headers={"location": elsewhere.url})
        with answers(redirect) as receiver:
            attempt = send(receiver.url)
            assert len(receiver.requests) == 1
        assert elsewhere.count_connections() == 0
    assert not attempt.delivered
    assert (attempt.response_status, attempt.error) == (status, "redirects are not followed")


def test_a_redirect_to_a_metadata_service_is_not_followed() -> None:
    answer = Answer(302, headers={"location": "http://169.254.169.254/latest/meta-data"})
    with answers(answer) as receiver:
        assert send(receiver.url, deadline=SOON).response_status == 302


def test_retry_after_is_understood_in_seconds_and_as_a_date() -> None:
    at = now().replace(microsecond=0)
    date = format_datetime(at + timedelta(minutes=2), usegmt=True)
    for text in ("120", date):
        with answers(Answer(503, headers={"Retry-After": text})) as receiver:
            wait = send(receiver.url, clock=lambda: at).retry_after
        assert wait == timedelta(minutes=2)
    with answers(Answer(503, headers={"Retry-After": "soon"})) as receiver:
        assert send(receiver.url).retry_after is None


# The part of the answer that is kept


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b"", ""),
        (b"no such line", "no such line"),
        (b"a" * 1024, "a" * 1024),
        (b"a" * 1025, "a" * 1024),
        ("Zoë".encode(), "Zoë"),
        (b"caf\xe9 \xff", "caf\ufffd \ufffd"),
        (b"a\0b\0", "ab"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
    ids=range(8),
)
def test_the_first_kilobyte_is_stored_as_text(body: bytes, stored: str) -> None:
    with answers(Answer(400, body)) as receiver:
        assert send(receiver.url).response_body == stored


def test_the_first_kilobyte_of_a_chunked_answer_is_stored() -> None:
    chunks = b"".join(b"64\r\n" + b"a" * 100 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    head = b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n"
    with answers(Answer(action="raw", body=head + chunks)) as receiver:
        assert send(receiver.url).response_body == "a" * 1024


def test_a_huge_answer_is_left_unread() -> None:
    """The sender closes the connection instead of reading 20 MB to the end."""

    def script(request: Request) -> Answer:
        return Answer(body=b"a" * 20_000_000) if request.number == 1 else Answer()

    with Receiver(script) as receiver:
        first, second = send_all([receiver.url] * 2)
        assert receiver.count_connections() == 2
        receiver.await_closed()
    assert first.delivered
    assert first.response_body == "a" * 1024
    assert second.delivered


# Addresses


@pytest.mark.parametrize("host", FORBIDDEN_HOSTS)
def test_nothing_is_sent_to_a_forbidden_host(host: str) -> None:
    with Receiver() as receiver:
        attempt = send(f"http://{host}:{receiver.port}/", allow_private=False)
        assert failed(attempt) == "the address is not allowed"
        assert receiver.count_connections() == 0


@pytest.mark.parametrize("url", ["ftp://hooks.example/", "http://zoe:hush@127.0.0.1/", "rubbish"])
def test_a_url_is_checked_again_at_each_send(url: str) -> None:
    assert failed(send(url)) == "the address is not allowed"


def test_a_name_that_is_rebound_between_two_sends_is_not_followed() -> None:
    """The first lookup gives a reserved and a public address, the second this machine."""
    replies = iter([["192.0.2.1", "93.184.216.34"], ["127.0.0.1"]])

    async def resolve(host: str) -> list[str]:
        return next(replies)

    with Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/"
        for attempt in send_all([url] * 2, allow_private=False, resolve=resolve):
            assert failed(attempt) == "the address is not allowed"
        assert receiver.count_connections() == 0
