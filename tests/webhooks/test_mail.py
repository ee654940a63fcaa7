"""Mail: messages, their headers, and attempts at a real SMTP server (contract, Feeds)."""

import asyncio
import email
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.features.webhooks.delivery.mailer import Mailer
from ledger.features.webhooks.delivery.sender import Attempt
from ledger.features.webhooks.formats.mail import bytes_of, mail_of
from ledger.features.webhooks.formats.plain import FormatOptions
from ledger.features.webhooks.formats.wording import saying_of
from ledger.features.webhooks.model.channel import MailSecurity, MailServer
from tests.support.alerts import alarms
from tests.support.certificate import create_contexts
from tests.support.mailbox import Mailbox, mail_server
from tests.support.receiver import Receiver
from tests.support.webhooks import webhook_ledger
from tests.webhooks.sending import now
from tests.webhooks.test_channels import BEGINNINGS, PUBLIC, envelope, stored_anywhere

AT = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
FROM = "ledger@example.com"
TO = "amara@example.org"
LACKS = "the mail server refused, or lacks what the settings ask for"
OPTIONS = FormatOptions("email", True, PUBLIC)


def server_at(port: int, security: MailSecurity = "none", **more: Any) -> MailServer:
    values = {"user": None, "password": None, "sender": FROM, "domains": frozenset({"example.org"})}
    return MailServer("127.0.0.1", port, security, **values | more)


def mail(*bodies: str, options: FormatOptions = OPTIONS) -> email.message.EmailMessage:
    return mail_of([saying_of(options, body) for body in bodies], FROM, TO, AT)


def send(server: MailServer, *recipients: str, deadline: float = 5.0, **options: Any) -> Attempt:
    make = partial(bytes_of, OPTIONS, [envelope()], FROM)

    async def run() -> Attempt:
        mailer = Mailer(server, now, deadline, **options)
        return await mailer.send("mailto:***", recipients or (TO,), make)

    return asyncio.run(run())


# The message.


def test_a_mail_has_the_sentence_as_text_and_as_html_and_says_that_it_is_automatic() -> None:
    message = mail(envelope(text="Payments & <gateway> is blocked."))
    assert message["Subject"] == "[critical] Payments & <gateway> is blocked."
    assert (message["From"], message["To"]) == (FROM, TO)
    assert message["Auto-Submitted"] == "auto-generated"
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == (
        f"[critical] Payments & <gateway> is blocked.\n{PUBLIC}/ui/alerts/ALR-26-000001\n"
    )
    assert "Payments &amp; &lt;gateway&gt; is blocked." in html.get_content()
    assert f'<a href="{PUBLIC}/ui/alerts/ALR-26-000001">' in html.get_content()


def test_later_states_of_an_alert_reply_to_its_opening() -> None:
    opened = mail(envelope())
    assert opened["Message-ID"] == "<ALR-26-000001@example.com>"
    assert opened["In-Reply-To"] is None
    ids = {opened["Message-ID"]}
    for type_ in ("alert.reminded", "alert.acknowledged", "alert.resolved"):
        later = mail(envelope(type_))
        assert later["In-Reply-To"] == later["References"] == opened["Message-ID"]
        ids.add(later["Message-ID"])
    assert len(ids) == 2, "the ids of the three later mails are made of their one event"


@pytest.mark.parametrize(("type_", "beginning"), BEGINNINGS)
def test_a_subject_says_what_has_happened_to_the_alert(type_: str, beginning: str) -> None:
    assert mail(envelope(type_))["Subject"] == f"{beginning}Payments gateway is blocked."
    many = [envelope(type_, subject={"type": "run", "id": f"RUN-26-{n}"}) for n in range(3)]
    assert mail(*many)["Subject"] == f"{beginning}3 runs · Blocked"


def test_a_mail_about_many_alerts_has_twenty_sentences_and_an_id_of_its_own() -> None:
    message = mail(*[
        envelope(text=f"Line {n} is blocked.", subject={"type": "service_line", "id": f"{n}"})
        for n in range(232)
    ])  # fmt: skip
    text = message.get_body(("plain",))
    assert text is not None
    lines = text.get_content().splitlines()
    assert [line for line in lines if "is blocked" in line][-1].endswith("Line 19 is blocked.")
    assert lines[-1] == "and 212 more"
    assert message["Subject"] == lines[0] == "[critical] 232 lines · Blocked"
    assert message["Message-ID"] != mail(envelope())["Message-ID"]


def test_without_details_a_mail_has_no_word_of_the_tenant() -> None:
    members = {"text": "TENANT", "watch_name": "TENANT"}
    for bodies in ([envelope(**members)], [envelope(**members)] * 3):
        message = mail(*bodies, options=FormatOptions("email", False, PUBLIC))
        parts = [part.get_content() for part in message.walk() if not part.is_multipart()]
        assert [text for text in [*parts, message["Subject"]] if "TENANT" in text] == []


_CHARACTERS = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from('\r\n\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u202e:<>"@,=? '),
    ),
    max_size=500,
)
ENCODED = [
    "=?utf-8?b?0aX:_y?=", "=?utf-8?q?=E2=80=AE?=", "=?utf-8?q?=0d=0aBcc:_eve@example.org?=",
    "=?utf-8?b?AA==?=", "=?utf-8?q?=1b[2J?=", "=?utf-8?b?", "?=",
]  # fmt: skip
_HOSTILE = st.lists(st.one_of(_CHARACTERS, st.sampled_from([*ENCODED, " ", "x" * 80]))).map("".join)


@given(_HOSTILE, _HOSTILE, st.integers(1, 3))
def test_no_words_add_a_header_or_a_control_character_to_one(
    sentence: str, name: str, count: int
) -> None:
    members = {"text": sentence or "x", "watch_name": name or "x"}
    content = mail(*[envelope(**members)] * count).as_bytes()
    head, _, _ = content.partition(b"\r\n\r\n")
    assert not re.search(rb"[^\x20-\x7e]", head.replace(b"\r\n", b""))
    lines = re.sub(rb"\r\n[ \t]", b" ", head).split(b"\r\n")
    names = sorted(line.partition(b":")[0].decode() for line in lines)
    assert names == [
        "Auto-Submitted", "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject",
        "To",
    ]  # fmt: skip
    parsed = email.message_from_bytes(content, policy=email.policy.SMTP)
    assert parsed["To"] == TO
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", str(parsed["Subject"]))


_ALLOWED = st.text(
    st.characters(
        codec="utf-8",
        categories=("L", "M", "N", "P", "S", "Zs", "Co"),
        exclude_characters="\u061c\u200e\u200f",
    ),
    max_size=100,
)
_WORDS = st.lists(st.one_of(_ALLOWED, st.sampled_from([*ENCODED, " ", "x" * 80])))


@given(_WORDS.map("".join))
@example(" ".join(ENCODED))
@example("x" * 500)
@example("  two  blanks  at a time  ")
@example("ä" * 500)
def test_the_subject_that_a_mailbox_decodes_is_the_headline_to_the_letter(words: str) -> None:
    content = bytes_of(OPTIONS, [envelope(text=f"{words}.")], FROM, TO, AT)
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    headline = f"[critical] {words}."
    cut = headline if len(headline) <= 200 else f"{headline[:199]}…"
    assert parsed["Subject"] == cut
    assert not parsed["Subject"].defects
    head, _, _ = content.partition(b"\r\n\r\n")
    assert all(len(line) <= 78 or b" " not in line.strip() for line in head.split(b"\r\n"))


def test_a_mail_that_cannot_be_made_with_a_tenants_words_is_sent_with_ids_alone() -> None:
    whole = json.loads(envelope(watch_name="TENANT"))
    del whole["payload"]["text"]
    parsed = email.message_from_bytes(
        bytes_of(OPTIONS, [json.dumps(whole)], FROM, TO, AT), policy=email.policy.default
    )
    text = parsed.get_body(("plain",))
    assert text is not None
    assert "ALR-26-000001 of WCH-26-000001, service_line LIN-26-000001" in text.get_content()
    assert parsed["Subject"].startswith("[critical] ALR-26-000001 of WCH-26-000001")
    assert "TENANT" not in text.get_content() + parsed["Subject"]


# Attempts.


def test_each_recipient_has_an_envelope_and_a_mail_of_their_own() -> None:
    with mail_server(Mailbox()) as mailbox:
        attempt = send(server_at(mailbox.port), TO, "kofi@example.org")
        assert (attempt.delivered, attempt.response_status) == (True, 250)
        assert (attempt.url, attempt.error) == ("mailto:***", None)
        found = [(one.sender, one.recipients, one.mail["To"]) for one in mailbox.mails]
        assert found == [(FROM, [to], to) for to in (TO, "kofi@example.org")]
        assert not any(b"kofi" in one.content for one in mailbox.mails[:1])


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({TO: "550 no such user"}, 550),
        ({TO: "451 later"}, 451),
        ({TO: "550 no such user", "kofi@example.org": "451 later"}, 451),
    ],
)
def test_an_attempt_fails_with_the_servers_answer_and_the_others_get_their_mail(
    answers: dict[str, str], status: int
) -> None:
    recipients = [TO, "kofi@example.org", "ada@example.org"]
    with mail_server(Mailbox(answers.get)) as mailbox:
        attempt = send(server_at(mailbox.port), *recipients)
        assert (attempt.delivered, attempt.response_status) == (False, status)
        addresses = [one.recipients[0] for one in mailbox.mails]
        assert addresses == [to for to in recipients if to not in answers]


def test_by_starttls_the_certificate_is_verified_and_the_password_sent(tmp_path: Path) -> None:
    there, client = create_contexts(tmp_path, "127.0.0.1")
    login = {"user": "ledger", "password": "pass word"}
    with mail_server(Mailbox(), starttls=there, password="pass word") as mailbox:
        server = server_at(mailbox.port, "starttls", **login)
        # The certificate is one for a name, and the address is an IP address.
        client.check_hostname = False
        assert send(server, ssl_context=client).delivered
        (received,) = mailbox.mails
        assert (received.is_encrypted, received.login) == (True, "ledger")
        wrong = send(server._replace(password="wrong"), ssl_context=client)
        assert (wrong.response_status, wrong.error) == (None, "the mail server refused the login")
        assert len(mailbox.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("fault", ["issuer", "name"])
def test_a_wrong_certificate_fails_and_nothing_is_sent(
    tmp_path: Path, security: Any, fault: str
) -> None:
    there, client = create_contexts(tmp_path, "mail.example")
    ways: dict[str, Any] = {security: there}
    with mail_server(Mailbox(), **ways) as mailbox:
        context = client if fault == "name" else None
        attempt = send(server_at(mailbox.port, security), ssl_context=context)
        assert (attempt.response_status, attempt.error) == (None, "TLS failed")
        assert mailbox.mails == []


def test_over_tls_a_mail_is_sent(tmp_path: Path) -> None:
    there, client = create_contexts(tmp_path, "mail.example")
    client.check_hostname = False
    with mail_server(Mailbox(), tls=there) as mailbox:
        assert send(server_at(mailbox.port, "tls"), ssl_context=client).delivered
        assert len(mailbox.mails) == 1


def test_a_server_without_starttls_gets_no_mail_and_no_password() -> None:
    login = {"user": "ledger", "password": "secret"}
    with mail_server(Mailbox()) as mailbox:
        attempt = send(server_at(mailbox.port, "starttls", **login))
        assert attempt.response_status is None
        assert attempt.error == LACKS
        assert mailbox.mails == []


@contextmanager
def talking(*lines: bytes) -> Iterator[int]:
    """A server that says these lines, one to each command, and then falls silent or closes."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for line in lines:
                if line == b"silent":
                    while connection.recv(4096):
                        pass
                    return
                connection.sendall(line)
                if not connection.recv(4096):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([b"silent"], "timed out"),
        ([b"220 hello\r\n", b"silent"], "timed out"),
        ([b"220 hello\r\n", b"250 hello\r\n", b"silent"], "timed out"),
        ([], "the connection broke"),
        ([b"220 hello\r\n"], "the connection broke"),
        ([b"220 hello\r\n", b"250 hello\r\n"], "the connection broke"),
        ([b"554 go away\r\n"], "the mail server cannot be reached"),
        ([b"no smtp at all\r\n"], LACKS),
    ],
)
def test_a_server_that_is_silent_or_closes_or_babbles_costs_an_attempt(
    lines: list[bytes], error: str
) -> None:
    with talking(*lines) as port:
        attempt = send(server_at(port), deadline=0.5)
    assert attempt.response_status is None
    assert attempt.error in {error, "the mail server cannot be reached"}
    assert attempt.latency_ms < 5000


def test_a_server_that_is_away_costs_an_attempt() -> None:
    assert send(server_at(9)).error == "the mail server cannot be reached"


def test_no_mail_goes_to_a_domain_that_the_operator_no_longer_allows() -> None:
    with mail_server(Mailbox()) as mailbox:
        server = server_at(mailbox.port, domains=frozenset({"example.net"}))
        assert send(server).error == "the domain may not be written to"
        assert send(server._replace(domains=frozenset({"*"}))).delivered
        assert len(mailbox.mails) == 1


# Delivery.


def test_a_mailbox_gets_an_alert_and_its_address_is_stored_nowhere_in_the_clear(
    conninfo: str,
) -> None:
    with (
        mail_server(Mailbox()) as mailbox,
        webhook_ledger(conninfo, smtp_port=mailbox.port) as ledger,
        alarms(ledger) as alarm,
    ):
        endpoint, _ = ledger.create("mailto:amara@example.org", format="email")
        ledger.start()
        alarm.watch(severity="critical")
        (line,) = alarm.lines(name="Payments gateway")
        (alert,) = alarm.block(line)
        mailbox.await_count(1)
        alarm.unblock(line)
        opened, resolved = mailbox.await_count(2)
        assert "Payments gateway is blocked by an approval gap" in opened.text
        assert opened.mail["Message-ID"] == f"<{alert}@example.com>" == resolved.mail["In-Reply-To"]
        first, second = ledger.await_all(endpoint, 2)
        assert (first.statuses, second.statuses) == ([250], [250])
        assert ledger.item(endpoint)["url"] == "mailto:***"
        assert stored_anywhere(conninfo, "amara@example") == []


def test_a_mail_that_is_refused_for_good_is_tried_once_and_the_answer_hides_the_address(
    conninfo: str,
) -> None:
    refuses = Mailbox(lambda address: f"550 5.1.1 <{address}> is unknown")
    with (
        mail_server(refuses) as mailbox,
        webhook_ledger(conninfo, smtp_port=mailbox.port) as ledger,
        alarms(ledger) as alarm,
    ):
        endpoint, _ = ledger.create("mailto:amara@example.org", format="email")
        ledger.start()
        alarm.watch()
        alarm.block(*alarm.lines())
        (delivery,) = ledger.await_all(endpoint, 1, "failed")
        (attempt,) = delivery.attempts
        assert attempt["response_status"] == 550
        assert attempt["response_body"] == "5.1.1 <***> is unknown"


def test_a_silent_mail_server_delays_no_other_endpoint(conninfo: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=100) as silent,
        webhook_ledger(conninfo, smtp_port=silent.getsockname()[1]) as ledger,
        Receiver() as receiver,
        alarms(ledger) as alarm,
    ):
        mails = [ledger.create(f"mailto:a{n}@example.org", format="email")[0] for n in range(5)]
        ledger.create(receiver.url, ["alert.opened"])
        ledger.start(deadline=8)
        alarm.watch()
        alarm.block(*alarm.lines(20))
        receiver.await_count(20, 6)
        assert {d.status for one in mails for d in ledger.deliveries(one)} == {"pending"}
