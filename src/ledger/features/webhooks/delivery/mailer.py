"""Mail by the operator's server: one attempt, with an envelope for each recipient.

All of it runs on the event loop, and the deadline ends it: a slow server costs attempts, but no
other endpoint's time. If the settings require TLS and there is none, nothing is sent.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import aiosmtplib

from ledger.engine.tls import trusting_context
from ledger.features.webhooks.delivery.sender import DEADLINE_SECONDS, Attempt
from ledger.features.webhooks.model.channel import MailServer, may_write_to

_MOST_CONNECTIONS = 16
"""The most connections at once. Servers refuse a client with dozens, so further mails wait."""

_STORED = 1024
"""The bytes of an answer that are stored."""

_ACCEPTED = 250


class Mailer:
    """Sends mails. A mailer belongs to one event loop."""

    def __init__(
        self,
        server: MailServer | None,
        clock: Callable[[], datetime],
        deadline: float = DEADLINE_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._server, self._clock, self._deadline = server, clock, deadline
        self._ssl_context = ssl_context or trusting_context()
        self._slots = asyncio.Semaphore(_MOST_CONNECTIONS)

    @property
    def sender(self) -> str:
        """The address in From; without a server, a placeholder that no mail has."""
        return self._server.sender if self._server is not None else "nobody@invalid"

    async def send(
        self, url: str, recipients: Sequence[str], mail: Callable[[str, datetime], bytes]
    ) -> Attempt:
        """Send the mail to each recipient. ``url`` is the masked address, for the record.

        Delivered means that the server accepted all. Of several refusals, a temporary one is
        reported.
        """
        at, begun = self._clock(), time.perf_counter()

        def attempt(status: int | None, error: str | None, answer: str | None) -> Attempt:
            ms = round((time.perf_counter() - begun) * 1000)
            text = None if answer is None else answer[:_STORED].replace("\0", "")
            return Attempt(url, at, status, ms, error, text, None)

        server = self._server
        if server is None:
            return attempt(None, "mail is not set up", None)
        if not all(may_write_to(one, server.domains) for one in recipients):
            return attempt(None, "the domain may not be written to", None)
        try:
            async with asyncio.timeout(self._deadline), self._slots:
                answers = await self._hand_over(server, recipients, lambda to: mail(to, at))
        except _REFUSED as error:
            return attempt(None, _why(error), None)
        refused = [one for one in answers if one[0] != _ACCEPTED]
        status, answer = min(refused, key=lambda one: one[0] >= 500, default=answers[-1])
        return attempt(status, None if status == _ACCEPTED else "the mail was refused", answer)

    async def _hand_over(
        self, server: MailServer, recipients: Sequence[str], mail: Callable[[str], bytes]
    ) -> list[tuple[int, str]]:
        """The server's answers, one for each recipient."""
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.security == "tls",
            start_tls=False,
            tls_context=self._ssl_context,
            local_hostname=server.sender.rpartition("@")[2],
            timeout=None,
        )
        answers = []
        try:
            await client.connect()
            if server.security == "starttls":
                await client.starttls()
            if server.user is not None and server.password is not None:
                await client.login(server.user, server.password)
            for recipient in recipients:
                try:
                    _, answer = await client.sendmail(server.sender, [recipient], mail(recipient))
                    answers.append((_ACCEPTED, answer))
                except aiosmtplib.SMTPRecipientsRefused as error:
                    answers.append((error.recipients[0].code, error.recipients[0].message))
                except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as error:
                    answers.append((error.code, error.message))
            await client.execute_command(b"QUIT")
        finally:
            # A server that does not answer the end of TLS would hold the connection for a while.
            if isinstance(client.transport, asyncio.WriteTransport):
                client.transport.abort()
            client.close()
        return answers


_REFUSED = (OSError, aiosmtplib.SMTPException)


def _why(error: Exception) -> str:
    """A fixed text for an error, which repeats no text of the server."""
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "TLS failed"
    match error:
        case aiosmtplib.SMTPAuthenticationError():
            return "the mail server refused the login"
        case TimeoutError():
            return "timed out"
        case aiosmtplib.SMTPServerDisconnected():
            return "the connection broke"
        case aiosmtplib.SMTPConnectError() | OSError():
            return "the mail server cannot be reached"
        case _:
            return "the mail server refused, or lacks what the settings ask for"
