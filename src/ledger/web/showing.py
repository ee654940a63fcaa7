"""How instants, durations and numbers are shown to people.

Every instant is shown in one zone, which the page names: UTC, or the one that the browser said its
user lives in (a cookie; no right hangs on it).
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import Request
from markupsafe import Markup

from ledger.domain.errors import Invalid, LedgerError
from ledger.domain.values import format_instant, parse_bound, parse_instant

ZONE_COOKIE = "ledger_zone"

_NO_ZONES = frozenset({"Factory", "localtime", "posixrules"})
"""What the database has beside the zones that people live in."""

_EXACT = 10**16
"""From here on a float does not have all its digits: it is written by its power of ten."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


class Zone:
    """The zone in which a page shows instants."""

    def __init__(self, name: str) -> None:
        """Raises ValueError for a name that is none."""
        try:
            if name in _NO_ZONES:
                raise ZoneInfoNotFoundError(name)
            self._zone = UTC if name == "UTC" else ZoneInfo(name)
        except (ZoneInfoNotFoundError, OSError) as error:
            raise ValueError("no such time zone") from error
        self.name = name

    @property
    def is_utc(self) -> bool:
        """Whether it is the one that the API speaks."""
        return self.name == "UTC"

    def local(self, instant: datetime | str) -> datetime:
        """The instant in this zone."""
        known = parse_instant(instant) if isinstance(instant, str) else instant
        return known.astimezone(self._zone)

    def instant(self, text: str) -> datetime:
        """What a person wrote (``2026-11-30T18:00``) as an instant. Raises ValueError."""
        written = datetime.fromisoformat(text)
        if written.tzinfo is None:
            written = written.replace(tzinfo=self._zone)
        return written.astimezone(UTC)

    def field(self, instant: datetime | str) -> str:
        """An instant, or a bound as addresses have it, as a field of a form shows it."""
        known = parse_bound(instant) if isinstance(instant, str) else instant
        return f"{self.local(known):%Y-%m-%dT%H:%M:%S}"

    def meant(self, name: str, text: str, exact: str | None = None) -> str:
        """What the field of this name means, as addresses have it. Raises Invalid.

        A field shows whole seconds: who left it as it was means the exact instant behind it.
        """
        try:
            with suppress(ValueError):
                # Compared as instants: browsers leave out seconds that are zero.
                if exact is not None and datetime.fromisoformat(
                    self.field(exact)
                ) == datetime.fromisoformat(text):
                    return exact
            return format_instant(self.instant(text))
        except (ValueError, OverflowError) as error:
            raise Invalid.at(
                f"/{name}", "must be a date and a time, such as 2026-11-30 18:00"
            ) from error

    def show(self, instant: datetime | str | None, precise: bool = False) -> Markup:
        """An instant as an element that names it exactly too; ``precise`` to the microsecond."""
        if instant is None:
            return Markup("—")
        at = self.local(instant)
        text = self.plain(at) + (f".{at.microsecond:06}" if precise else "")
        exact = format_instant(at)
        return Markup('<time datetime="{0}" title="{0} ({1})">{2}</time>').format(
            exact, self.name, text
        )

    def plain(self, instant: datetime | str) -> str:
        """An instant where there can be no element."""
        return f"{self.local(instant):%Y-%m-%d %H:%M:%S}"

    def day(self, instant: datetime | str) -> str:
        """The instant's day."""
        return f"{self.local(instant):%Y-%m-%d}"

    def short(self, instant: datetime | str) -> str:
        """An instant for the axis of a chart."""
        return f"{self.local(instant):%m-%d %H:%M}"


_UTC = Zone("UTC")


def picks(now: datetime, zone: Zone) -> Sequence[tuple[str, str]]:
    """Instants that people often ask for: (what it is called, the instant as addresses have it)."""
    today = zone.local(now).replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    tick = timedelta(microseconds=1)
    yesterday = zone.instant(f"{today - timedelta(hours=12):%Y-%m-%d}T00:00:00")
    week = zone.instant(f"{today - timedelta(days=today.weekday()):%Y-%m-%d}T00:00:00")
    return (
        ("the end of last month", format_instant(month.astimezone(UTC) - tick)),
        ("the end of last week", format_instant(week - tick)),
        ("yesterday 00:00", format_instant(yesterday)),
        ("an hour ago", format_instant(now.replace(microsecond=0) - timedelta(hours=1))),
    )


def zone_of(request: Request) -> Zone:
    """The zone that the browser asked for; UTC where it asked for none, or for none there is."""
    name = unquote(request.cookies.get(ZONE_COOKIE, "UTC"))
    try:
        return Zone(name) if name.isascii() and len(name) < 64 else _UTC
    except ValueError:
        return _UTC


def duration(length: timedelta | float | None) -> str:
    """A length of time in its two largest units: ``3 d 4 h``, ``2.4 s``, ``350 ms``."""
    if length is None:
        return "—"
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds <= 0:
        return "0 s"
    # Rounded first: what comes to a whole second or minute is told as one.
    if round(seconds * 1000) < 1000:
        return f"{round(seconds * 1000)} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole, parts = max(60, int(seconds)), list[tuple[int, str]]()
    for unit, size in _UNITS:
        amount, whole = divmod(whole, size)
        if amount or parts:
            parts.append((amount, unit))
    return " ".join(f"{amount} {unit}" for amount, unit in parts[:2] if amount)


def milliseconds(length: float | None) -> str:
    """The same for a number of milliseconds."""
    return duration(None if length is None else length / 1000)


def since(instant: datetime, now: datetime) -> str:
    """How long ago, seen from ``now``, in minutes at the finest.

    So a page that is shown again says the same for a while, and only what changed is touched.
    """
    minutes = (now - instant) // timedelta(minutes=1)
    return duration(minutes * 60) if minutes > 0 else "under a minute"


def number(value: float | None) -> str:
    """A number as JSON has it, with its thousands apart: what is nearly nothing does not say 0."""
    if value is None:
        return "—"
    is_whole = isinstance(value, int) or (value % 1 == 0 and abs(value) < _EXACT)
    return f"{int(value):,}" if is_whole else f"{value:,}"


def words(name: str) -> str:
    """A name of the API as people write it: ``approval_gap`` → ``approval gap``."""
    return _SPELT.get(name, name.replace("_", " "))


_SPELT = {
    "ods": "ODS",
    "ongoing_sla": "ongoing SLA",
    "infra_managed": "managed infra",
    "sla_compliance": "SLA compliance",
    "check_ins_this_week": "check-ins this week",
}


_SAID: Sequence[tuple[str, str]] = (
    (
        r"String should match pattern '\^\\d\{4\}.*",
        "is no date, nor an instant such as 2026-11-30T18:00:00Z",
    ),
    (r"String should match pattern '\^\(\?:.*", "is none of the words that are known here"),
    (r"String should match pattern .*", "does not have the right form"),
    (r"Input should be '.*", "is none of the words that are known here"),
    (r"Field required", "is needed"),
    (r"(?:String|Value) should have at least 1 character", "must not be empty"),
    (r"String should have at most (\d+) characters", r"must have at most \1 characters"),
    (r"List should have at least 1 item.*", "choose at least one"),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be (.*)", r"must be \1"),
    (r"Value error, (.*)", r"\1"),
)
"""What validation says, and how people say it."""


def complaint(place: tuple[str, str]) -> str:
    """(pointer, detail) of a refusal as a sentence about a field."""
    pointer, detail = place
    for said, better in _SAID:
        detail, changed = re.subn(f"^{said}$", better, detail, flags=re.DOTALL)
        if changed:
            break
    name = words(pointer.strip("/").replace("/", " "))
    return (
        f"{name[:1].upper()}{name[1:]}: {detail}." if name else f"{detail[:1].upper()}{detail[1:]}."
    )


def refusal(error: LedgerError) -> str:
    """A refusal as people who sent a form are told it."""
    return _TOLD.get(error.code, error.detail)


_TOLD = {
    "idempotency_key_reused": "This form was sent before, with other words."
    " Send it again to send these.",
}


def pretty(value: Any) -> str:
    """JSON to be read."""
    return json.dumps(value, indent=2, ensure_ascii=False)


FILTERS: Mapping[str, Callable[..., Any]] = {
    "duration": duration,
    "milliseconds": milliseconds,
    "since": since,
    "number": number,
    "words": words,
    "complaint": complaint,
    "refusal": refusal,
    "pretty": pretty,
    "instant": format_instant,
    "after": lambda instant: format_instant(instant + timedelta(microseconds=1)),
}
"""By which templates write values."""


@cache
def static(name: str) -> str:
    """The address of a static file: another one whenever its content is, so it is kept for good."""
    content = (files("ledger.web") / "static" / name).read_bytes()
    return f"/ui/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"
