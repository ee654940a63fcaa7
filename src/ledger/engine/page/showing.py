"""Instants, durations, numbers and names as people read them.

A page shows every instant in one time zone, which it names: UTC, or the zone of the browser. A
cookie holds the choice; no permission depends on it.
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

from fastapi import Request
from markupsafe import Markup

from ledger.engine.page.permissions import without_permission
from ledger.engine.values import principal
from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import ChangedTooOften, Invalid, LedgerError
from ledger.engine.values.values import TEXT, escaped, format_instant, parse_bound, parse_instant

ZONE_COOKIE = "ledger_zone"
THEME_COOKIE = "ledger_theme"
COLUMNS_COOKIE = "ledger_columns"

THEMES = ("system", "light", "dark")
"""The colour schemes, in the order in which the page's switch takes them."""

COLUMNS: Mapping[str, str] = {
    "workspace": "Workspace",
    "projects": "Projects",
    "kind": "Kind",
    "id": "ID",
    "since": "Since",
}

_EXACT = 10**16
"""A float from here on may be inexact in its last digits, so it is written with an exponent."""

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


class Zone:
    """The zone in which a page shows instants."""

    def __init__(self, name: str) -> None:
        """Raises ValueError for an unknown name."""
        try:
            self.calendar = calendar_of(name)
        except Invalid as error:
            raise ValueError("no such time zone") from error
        self._zone, self.name = self.calendar.zone, name

    @property
    def is_utc(self) -> bool:
        return self.name == "UTC"

    def local(self, instant: datetime | str) -> datetime:
        parsed = parse_instant(instant) if isinstance(instant, str) else instant
        return parsed.astimezone(self._zone)

    def instant(self, text: str) -> datetime:
        """Text that a person typed (``2026-11-30T18:00``) as an instant. Raises ValueError."""
        written = datetime.fromisoformat(text)
        if written.tzinfo is None:
            written = written.replace(tzinfo=self._zone)
        return written.astimezone(UTC)

    def field(self, instant: datetime | str) -> str:
        """An instant, or a bound from an address, as the value of a form's field."""
        parsed = parse_bound(instant) if isinstance(instant, str) else instant
        return f"{self.local(parsed):%Y-%m-%dT%H:%M:%S}"

    def meant(self, name: str, text: str, exact: str | None = None) -> str:
        """The field's instant for an address; unchanged, the exact one. Raises Invalid."""
        try:
            with suppress(ValueError):
                # Compared as date and time, not as text: browsers omit seconds that are zero.
                if exact is not None and datetime.fromisoformat(
                    self.field(exact)
                ) == datetime.fromisoformat(text):
                    return exact
            return format_instant(self.instant(text))
        except (ValueError, OverflowError) as error:
            raise Invalid.at(
                f"/{name}", "must be a date and a time, such as 2026-11-30 18:00"
            ) from error

    def show(
        self, instant: datetime | str | None, precise: bool = False, label: str | None = None
    ) -> Markup:
        """``precise`` shows microseconds; with ``label``, the pointer shows the instant."""
        if instant is None:
            return Markup("—")
        at = self.local(instant)
        if label is not None:
            return Markup('<time datetime="{}Z" title="{} {}">{}</time>').format(
                _UTC.plain(at), self.plain(at), self.name, label
            )
        text = self.plain(at) + (f".{at.microsecond:06}" if precise else "")
        exact = format_instant(at)
        return Markup('<time datetime="{0}" title="{0} ({1})">{2}</time>').format(
            exact, self.name, text
        )

    def plain(self, instant: datetime | str) -> str:
        return f"{self.local(instant):%Y-%m-%d %H:%M:%S}"

    def day(self, instant: datetime | str) -> str:
        return f"{self.local(instant):%Y-%m-%d}"

    def short(self, instant: datetime | str) -> str:
        return f"{self.local(instant):%m-%d %H:%M}"


_UTC = Zone("UTC")


def picks(now: datetime, zone: Zone) -> Sequence[tuple[str, str]]:
    """Instants that people often choose: (label, instant as text for an address)."""
    today = zone.local(now).replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    tick = timedelta(microseconds=1)
    yesterday = zone.instant(f"{today - timedelta(hours=12):%Y-%m-%d}T00:00:00")
    week = zone.instant(f"{today - timedelta(days=today.weekday()):%Y-%m-%d}T00:00:00")
    return (
        ("End of last month", format_instant(month.astimezone(UTC) - tick)),
        ("End of last week", format_instant(week - tick)),
        ("Yesterday 00:00", format_instant(yesterday)),
        ("1 hour ago", format_instant(now.replace(microsecond=0) - timedelta(hours=1))),
    )


def zone_of(request: Request) -> Zone:
    """The zone in the browser's cookie; UTC without a cookie or for an unknown zone."""
    name = unquote(request.cookies.get(ZONE_COOKIE, "UTC"))
    try:
        return Zone(name) if name.isascii() and len(name) < 64 else _UTC
    except ValueError:
        return _UTC


def theme_of(request: Request) -> str:
    """The colour scheme in the browser's cookie; the system's without a cookie."""
    theme = request.cookies.get(THEME_COOKIE)
    return theme if theme in THEMES else THEMES[0]


def theme_after(theme: str) -> str:
    return THEMES[(THEMES.index(theme) + 1) % len(THEMES)]


def columns_of(request: Request) -> Sequence[str]:
    """The columns of choice in the browser's cookie, in the order of ``COLUMNS``."""
    chosen = request.cookies.get(COLUMNS_COOKIE, "").split(".")
    return [name for name in COLUMNS if name in chosen]


def duration(length: timedelta | float | None) -> str:
    """A duration in its two largest units: ``3 d 4 h``, ``2.4 s``, ``350 ms``."""
    if length is None:
        return "—"
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds <= 0:
        return "0 s"
    # Rounded before the unit is chosen: 999.6 ms is shown as 1 s, and 59.97 s as 1 min.
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
    """A number of milliseconds, shown as ``duration`` shows it."""
    return duration(None if length is None else length / 1000)


def since(instant: datetime, now: datetime) -> str:
    """In whole minutes, so that a refresh of a page leaves most elements untouched."""
    minutes = (now - instant) // timedelta(minutes=1)
    return duration(minutes * 60) if minutes > 0 else "less than a minute"


def age(instant: datetime, now: datetime) -> str:
    """The time between two instants, in days and hours, in hours, or in minutes."""
    minutes = abs(now - instant) // timedelta(minutes=1)
    if minutes < 1:
        return "< 1 min"
    if minutes < 60:
        return f"{minutes} min"
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if days else f"{hours} h"


def person(identifier: str) -> str:
    """A person's address without its domain; any other id whole."""
    return identifier.partition("@")[0] or identifier


def number(value: float | None) -> str:
    """A number with all its digits and with commas between thousands; 0.004 is not rounded to 0."""
    if value is None:
        return "—"
    is_whole = isinstance(value, int) or (value % 1 == 0 and abs(value) < _EXACT)
    return f"{int(value):,}" if is_whole else f"{value:,}"


def words(name: str) -> str:
    """A name of the API as people write it: ``approval_gap`` → ``approval gap``."""
    return _SPELT.get(name, name.replace("_", " "))


def label(name: str) -> str:
    """A field's name as the page labels the field: ``workspace_id`` → ``Workspace``."""
    text = words(name)
    return _LABELS.get(name, text[:1].upper() + text[1:])


def actor(identifier: str, type_: str = "system") -> str:
    """An actor of the ledger itself in words; any other actor by its id.

    ``type_`` is the actor's. A credential without a known type cannot be one of the ledger's own:
    keys and persons have ids with prefixes.
    """
    if type_ != "system":
        return identifier
    prefix, _, user = identifier.partition(":")
    if prefix == "cli":
        return f"{user} at the command line"
    return _SYSTEM.get(identifier, identifier)


_SYSTEM = {
    principal.SWEEPER.id: "the ledger, after no activity",
    principal.LEASE_WATCH.id: "the ledger, at the end of a lease",
    principal.HOUSEKEEPER.id: "the ledger, housekeeping",
    principal.DISPATCHER.id: "the ledger, as sender of webhooks",
    principal.WATCHER.id: "the ledger, by a watch",
    principal.PAUSE_UNTIL.id: "the ledger, at the end of a pause",
    principal.PARENT_BY_NAME.id: "the ledger, by the parent’s external ID",
    principal.PARENT_BY_TRACE.id: "the ledger, by the run’s trace",
}


_SPELT = {
    "api_key": "API key",
    "ods": "ODS",
    "ongoing_sla": "ongoing SLA",
    "infra_managed": "managed infra",
    "sla_compliance": "SLA compliance",
    "check_ins_this_week": "check-ins this week",
}

_LABELS = {
    "actor_id": "Actor",
    "as_of": "Time",
    "at": "Time",
    "blocked_cause": "Cause",
    "event_types": "Events",
    "external_id": "External ID",
    "id": "ID",
    "invocations_today": "Runs today",
    "invocations_total": "Runs total",
    "limit": "Rows",
    "organization_id": "Organization",
    "parent_run_id": "Child of run",
    "project_tag": "Project",
    "service_line_id": "Line",
    "to": "Before",
    "type": "Event type",
    "url": "URL",
    "watch_id": "Watch",
    "watch_ids": "Watches",
    "workspace_id": "Workspace",
    "zone": "Time zone",
}

_PLAIN: Sequence[tuple[str, str]] = (
    (
        r"String should match pattern '\^\\d\{4\}.*",
        "must be a date, or a time such as 2026-11-30T18:00:00Z",
    ),
    (r"String should match pattern '\^\(\?:.*", "is not a known value"),
    (r"String should match pattern .*", "has the wrong format"),
    (r"Input should be '.*", "is not a known value"),
    (r"Field required", "is required"),
    (r"(?:String|Value) should have at least 1 character", "must not be empty"),
    (r"String should have at most (\d+) characters", r"must have at most \1 characters"),
    (r"List should have at least 1 item.*", "choose at least one"),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be (.*)", r"must be \1"),
    (
        r"(?:Value error, )?names a word that is neither an action.*",
        "there is no such action; choose one from the list",
    ),
    (
        r"must not lead to an address that is not public",
        "leads to a private address. The operator allows these with LEDGER_WEBHOOK_ALLOW_PRIVATE",
    ),
    (r"must be mailto: and (.*)", r"must be \1"),
    (r"lies before from", "must not be earlier than the start"),
    (r"Value error, (.*)", r"\1"),
)
"""Messages of validation, and the page's words for them."""


def complaint(error: tuple[str, str]) -> str:
    """A (pointer, detail) pair of a refusal, as a sentence about a field of the page."""
    pointer, detail = error
    if detail == "lies in the future":
        return "Choose a past time."
    for message, plain in _PLAIN:
        detail, changed = re.subn(f"^{message}$", plain, detail, flags=re.DOTALL)
        if changed:
            break
    field, *rest = pointer.strip("/").split("/")
    name = " ".join([label(field), *rest])
    return f"{name}: {detail}." if name else f"{detail[:1].upper()}{detail[1:]}."


def refusal(error: LedgerError) -> str:
    """The detail of a refusal, in the page's words where those of the API are for programs."""
    if isinstance(error, ChangedTooOften):
        return error.detail
    return without_permission(error.detail) or _REWORDED.get(error.code, error.detail)


_REWORDED = {
    "idempotency_key_reused": "This form was already sent with other values."
    " Send it again to use the new values.",
    "rate_limited": "Too many requests of this credential or its organization are being answered."
    " Try again in a moment.",
}


def _text(value: Any) -> str:
    return str(value)


def _trigger(value: dict[str, Any]) -> str:
    who = value.get("actor_id")
    return f"triggered by {who or words(str(value.get('type')))}"


def _models(value: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['model']}: {number(each['input'] + each['output'])}" for each in value)


# In the order of the line. Empty values are left out. So are states, causes, signals and their
# statuses: the page shows them by marks of their own.
_SAYS: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("hold", lambda value: f"{words(value)} hold"),
    ("text", _text),
    ("severity", words),
    ("watch_name", lambda value: f"watch {value}"),
    ("n", lambda value: f"reminder {number(value)}"),
    ("reason", _text),
    ("until", lambda value: f"until {_UTC.plain(value)} UTC"),
    ("blocker_id", lambda value: f"blocker {value}"),
    ("assignee", lambda value: f"assigned to {value}"),
    ("due_at", lambda value: f"due {_UTC.plain(value)} UTC"),
    ("from", lambda value: f"from {_UTC.plain(value)} UTC"),
    ("to", lambda value: f"to {_UTC.plain(value)} UTC"),
    ("reference", _text),
    ("replaces", lambda value: f"replaces {value}"),
    ("note", _text),
    ("product_line", words),
    ("execution_model", words),
    ("project_tags", ", ".join),
    ("name", _text),
    ("role", words),
    ("hours", lambda value: f"{number(value)} h"),
    ("allocated_hours_per_week", lambda value: f"{number(value)} h per week"),
    ("evidence", lambda value: value if isinstance(value, str) else ""),
    ("threshold_seconds", lambda value: f"no activity for {duration(value)}"),
    ("triggered_by", _trigger),
    ("external_id", _text),
    ("attempt", lambda value: f"attempt {value}" if value > 1 else ""),
    ("retry_of", lambda value: f"after {value}"),
    ("parent_run_id", lambda value: f"part of {value}"),
    ("parent_external_id", lambda value: f"part of {value}"),
    ("lease_seconds", lambda value: f"lease of {duration(value)}"),
    ("duration_ms", lambda value: f"took {milliseconds(value)}"),
    ("tokens_used", lambda value: f"{number(value)} tokens"),
    ("previous", lambda value: f"{number(value)} before"),
    ("token_usage", _models),
    ("lease_expired", lambda _: "because its lease ended"),
    ("late", lambda _: "replaces an earlier end"),
    ("by_closing", lambda _: "because the line was closed"),
    ("event_id", _text),
    ("attempts", lambda value: f"{number(value)} attempts"),
    ("response_status", lambda value: f"response {value}"),
    ("error", _text),
    ("resource_id", _text),
    ("id", _text),
)


def summary(payload: dict[str, Any]) -> list[str]:
    """The texts for a payload's fields; an empty list if there is no field to show.

    The texts stay apart, so that the page can isolate each one: text that is read from right to
    left would otherwise reorder the text next to it.
    """
    texts = (say(payload[name]) for name, say in _SAYS if not _is_nothing(payload.get(name)))
    return [part for part in texts if part]


def _is_nothing(value: Any) -> bool:
    """True if a value is empty. Zero is not empty: 0 hours are shown."""
    return value is None or value is False or value in ("", [], {})


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def indented(text: str) -> str:
    """JSON text, indented; another text, such as that of a mail, as it is."""
    with suppress(ValueError):
        return pretty(json.loads(text))
    return text


def harmless(value: Any) -> Any:
    """A value of a template, with escapes for control characters."""
    return escaped(value, TEXT) if type(value) is str else value


FILTERS: Mapping[str, Callable[..., Any]] = {
    "duration": duration,
    "milliseconds": milliseconds,
    "since": since,
    "age": age,
    "person": person,
    "number": number,
    "words": words,
    "label": label,
    "actor": actor,
    "complaint": complaint,
    "refusal": refusal,
    "pretty": pretty,
    "indented": indented,
    "instant": format_instant,
    "after": lambda instant: format_instant(instant + timedelta(microseconds=1)),
}


@cache
def static(name: str) -> str:
    """The address of a static file. The address contains a hash, so browsers may cache for good."""
    content = (files("ledger.engine.page") / "static" / name).read_bytes()
    return f"/ui/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"
