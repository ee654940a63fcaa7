"""A real SMTP server on a thread of the test, which keeps the mails that it takes."""

import email
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from typing import Any, NamedTuple, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class ReceivedMail(NamedTuple):
    """A mail as the server took it."""

    sender: str
    recipients: list[str]
    mail: EmailMessage
    content: bytes
    is_encrypted: bool
    login: str | None

    @property
    def text(self) -> str:
        part = self.mail.get_body(("plain",))
        assert part is not None
        return str(part.get_content())

    @property
    def html(self) -> str:
        part = self.mail.get_body(("html",))
        assert part is not None
        return str(part.get_content())


class Mailbox:
    """The server's handler. ``answer`` gives the reply to each recipient; None: it is taken."""

    def __init__(self, answer: Callable[[str], str | None] = lambda _: None) -> None:
        self.answer = answer
        self.port = 0
        self._mails: list[ReceivedMail] = []
        self._changed = threading.Condition()

    @property
    def mails(self) -> list[ReceivedMail]:
        with self._changed:
            return list(self._mails)

    def await_count(self, count: int, seconds: float = 15) -> list[ReceivedMail]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._mails) >= count, seconds)
            found = list(self._mails)
        assert len(found) >= count, f"{len(found)} of {count} mails arrived in {seconds} s"
        return found

    # The hooks of aiosmtpd.

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        refusal = self.answer(address)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = cast(bytes, envelope.content)
        mail = cast(EmailMessage, email.message_from_bytes(content, policy=POLICY))
        login = session.auth_data.decode() if session.auth_data else None
        encrypted = session.ssl is not None
        sender = envelope.mail_from or ""
        saved = ReceivedMail(sender, envelope.rcpt_tos, mail, content, encrypted, login)
        with self._changed:
            self._mails.append(saved)
            self._changed.notify_all()
        return "250 taken"


class _OnAnyPort(Controller):
    """A server on a free port, which is known once it listens."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def mail_server(
    mailbox: Mailbox,
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    password: str | None = None,
) -> Iterator[Mailbox]:
    """Serve the mailbox on a free port of this machine."""

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        is_right = data.password.decode() == password
        return AuthResult(success=is_right, handled=is_right, auth_data=data.login)

    options: dict[str, Any] = {}
    if password is not None:
        options = {"authenticator": authenticate, "auth_required": True}
        options["auth_require_tls"] = starttls is not None
    controller = _OnAnyPort(
        mailbox,
        hostname="127.0.0.1",
        port=0,
        ssl_context=tls,
        tls_context=starttls,
        require_starttls=starttls is not None,
        **options,
    )
    controller.start()
    try:
        mailbox.port = controller.port
        yield mailbox
    finally:
        controller.stop()
