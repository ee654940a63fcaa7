"""Mails: plain text and HTML, one for each recipient.

All mails about an alert are one thread: the first has the alert's Message-ID, and the later ones
refer to it. A mail about several alerts has its own id. With a known id, a mailbox might drop a
repeated mail that has more alerts than the first.
"""

import html
import logging
import re
from collections.abc import Sequence
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP, Policy
from email.utils import format_datetime
from typing import Any

from ledger.features.webhooks.formats import wording
from ledger.features.webhooks.formats.plain import ALERT, FormatOptions
from ledger.features.webhooks.model.channel import HIDDEN

_logger = logging.getLogger(__name__)

_SUBJECT = 200

# Control characters, line and paragraph separators, bidirectional controls, and halves of surrogate
# pairs: none of them belongs in a header.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Subject(str):
    """A subject that is sent as it is. ``EmailMessage`` would decode its encoded words."""

    name = "Subject"

    def fold(self, *, policy: "Policy[Any]") -> str:
        charset = "utf-8" if "=?" in self else None  # None: plain ASCII if possible
        encoded = Header(self, charset, header_name=self.name).encode(linesep=policy.linesep)
        return f"{self.name}: {encoded}{policy.linesep}"


def mail_of(
    sayings: list[wording.Saying], sender: str, recipient: str, at: datetime
) -> EmailMessage:
    """The mail to one recipient about one or more events."""
    mail = EmailMessage(policy=SMTP)
    for name, value in _headers(sayings, sender, recipient, at).items():
        mail[name] = _Subject(value) if name == "Subject" else value
    mail.set_content(text_of(sayings), cte="base64")
    mail.add_alternative(_html_of(sayings), subtype="html", cte="base64")
    return mail


def bytes_of(
    options: FormatOptions, bodies: Sequence[str], sender: str, recipient: str, at: datetime
) -> bytes:
    """The bytes of the mail to one recipient. If the words make it fail, it has ids alone."""
    try:
        sayings = [wording.saying_of(options, body) for body in bodies]
        return mail_of(sayings, sender, recipient, at).as_bytes()
    except Exception:
        # This is a programming error. The words of a tenant must not silence an alert by causing
        # it.
        if not options.details:
            raise
        _logger.exception("a mail is sent with ids alone")
        return bytes_of(options._replace(details=False), bodies, sender, recipient, at)


def preview(
    sayings: list[wording.Saying], sender: str | None, at: datetime
) -> tuple[dict[str, str], str]:
    """The headers of a mail, without its recipient, and its plain text."""
    return _headers(sayings, sender or HIDDEN, HIDDEN, at), text_of(sayings)


def _headers(
    sayings: list[wording.Saying], sender: str, recipient: str, at: datetime
) -> dict[str, str]:
    return {
        "Subject": subject_of(sayings),
        "From": sender,
        "To": recipient,
        "Date": format_datetime(at),
        **thread_of(sayings, sender.rpartition("@")[2]),
        "Auto-Submitted": "auto-generated",
    }


def subject_of(sayings: list[wording.Saying]) -> str:
    return wording.cut(_FORBIDDEN.sub(" ", wording.headline_of(sayings)), _SUBJECT)


def thread_of(sayings: list[wording.Saying], domain: str) -> dict[str, str]:
    """The headers by which a mail program groups mails into threads."""
    opened = [_id(one.subject_id, domain) for one in sayings if one.type == f"{ALERT}opened"]
    later = [
        _id(one.subject_id, domain)
        for one in sayings[: wording.SENTENCES]
        if one.type.startswith(ALERT) and one.type != f"{ALERT}opened"
    ]
    if len(sayings) == 1 and opened:
        return {"Message-ID": opened[0]}
    names = [sayings[0].event_id, *([sayings[-1].event_id] if len(sayings) > 1 else [])]
    about = f"{sayings[0].subject_id}.{'.'.join(names)}"
    found = {"Message-ID": _id(about, domain)}
    if later:
        found |= {"In-Reply-To": " ".join(later), "References": " ".join(later)}
    return found


def text_of(sayings: list[wording.Saying]) -> str:
    """The plain text of the mail."""
    parts = [
        "\n".join(filter(None, (_words(one, sayings), one.more, one.link)))
        for one in sayings[: wording.SENTENCES]
    ]
    if len(sayings) > 1:
        parts = [wording.headline_of(sayings), *parts, wording.rest_of(sayings)]
    return _NOT_TEXT.sub(" ", "\n\n".join(filter(None, parts)) + "\n")


def _html_of(sayings: list[wording.Saying]) -> str:
    parts = [_paragraph(one, _words(one, sayings)) for one in sayings[: wording.SENTENCES]]
    if len(sayings) > 1:
        rest = wording.rest_of(sayings)
        parts = [f"<p><b>{html.escape(wording.headline_of(sayings))}</b></p>", *parts]
        parts += [f"<p>{rest}</p>"] if rest else []
    body = _NOT_TEXT.sub(" ", "\n".join(parts))
    return f'<!doctype html>\n<html lang="en"><body>\n{body}\n</body></html>\n'


def _words(one: wording.Saying, sayings: list[wording.Saying]) -> str:
    """The words about one event. Among several events, its headline comes first."""
    return wording.headline_of(sayings) if len(sayings) == 1 else one.sentence


def _paragraph(one: wording.Saying, text: str) -> str:
    words = html.escape(text)
    if one.more:
        words += f"<br>{html.escape(one.more)}"
    if one.link:
        words += f'<br><a href="{html.escape(one.link)}">Open in the ledger</a>'
    return f"<p>{words}</p>"


def _id(name: str, domain: str) -> str:
    return f"<{name}@{domain}>"
