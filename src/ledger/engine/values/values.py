"""Values that every part of the ledger uses: ids, enumerations, instants.

Ids are ``PREFIX-YY-NNNNNN`` (contract, Conventions): two digits of the year, then at least six
digits, and more than six only without leading zeros.
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NewType, get_args

import msgspec

ProductLine = Literal[
    "talent", "managed_services", "ods", "infrastructure", "intelligence", "agent_gateway"
]
ExecutionModel = Literal[
    "capacity",
    "ongoing_sla",
    "timeboxed_outcome",
    "infra_managed",
    "observability",
    "agent_runtime",
]
State = Literal["running", "idle", "paused", "blocked", "closed"]
Cause = Literal["approval_gap", "capacity_issue", "policy_violation", "delivery_blocker"]
RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
HoldName = Literal["operator", "service_line"]
ActorType = Literal["user", "api_key", "agent", "system"]
TriggerType = Literal["api", "user", "agent", "schedule", "system"]
Origin = Literal["issued", "supplied"]

PRODUCT_LINES: tuple[ProductLine, ...] = get_args(ProductLine)
EXECUTION_MODELS: tuple[ExecutionModel, ...] = get_args(ExecutionModel)
STATES: tuple[State, ...] = get_args(State)
CAUSES: tuple[Cause, ...] = get_args(Cause)
RUN_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
ENDED: frozenset[RunStatus] = frozenset({"completed", "failed", "cancelled"})

MODELS_WITH_RUNS: frozenset[ExecutionModel] = frozenset({"agent_runtime", "timeboxed_outcome"})
"""The execution models with discrete runs; the other four are continuous."""

MAX_OPEN_RUNS = 3_000
"""The most open runs that a line may have at once (contract, State)."""

LEASE_SECONDS = (5, 604_800)
"""The shortest and the longest lease of a run (contract, Facts)."""

OMITTED = "omitted"
"""Marks, in a field's JSON schema, that responses leave the field out if it has its default."""

_NUMBER = r"(?:[0-9]{6}|[1-9][0-9]{6,11})"
LINE_ID = rf"^LIN-[0-9]{{2}}-{_NUMBER}$"
RUN_ID = rf"^RUN-[0-9]{{2}}-{_NUMBER}$"
ORGANIZATION_ID = rf"^ORG-[0-9]{{2}}-{_NUMBER}$"
WORKSPACE_ID = rf"^WS-[0-9]{{2}}-{_NUMBER}$"
PROJECT_ID = rf"^PROJ-[0-9]{{2}}-{_NUMBER}$"
ENDPOINT_ID = rf"^WHK-[0-9]{{2}}-{_NUMBER}$"
SESSION_ID = "^SES-[0-9a-f]{16}$"
KEY_ID = rf"^KEY-[0-9]{{2}}-{_NUMBER}$"
STATEMENT_ID = rf"^STM-[0-9]{{2}}-{_NUMBER}$"
WATCH_ID = rf"^WCH-[0-9]{{2}}-{_NUMBER}$"
ALERT_ID = rf"^ALR-[0-9]{{2}}-{_NUMBER}$"
EVENT_ID = rf"^EVT-[0-9]{{2}}-{_NUMBER}$"
AUDIT_ID = rf"^AUD-[0-9]{{2}}-{_NUMBER}$"

# Unicode's Bidi_Control: they change the order in which a text appears.
_BIDIRECTIONAL = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROLS = rf"\x00-\x1f\x7f-\x9f{_BIDIRECTIONAL}"
_CONTROLS_BUT_LINES = rf"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_BIDIRECTIONAL}"
LABEL = f"^[^{_CONTROLS}]*$"
"""The characters of a name or an id: no control characters and no bidirectional controls."""
TEXT = f"^[^{_CONTROLS_BUT_LINES}]*$"
"""The characters of a text of several lines: those of a name, tabs and line ends."""

_UNPLAIN = {LABEL: re.compile(f"[{_CONTROLS}]"), TEXT: re.compile(f"[{_CONTROLS_BUT_LINES}]")}

_encode = msgspec.json.Encoder().encode

_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(\.\d+)?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_YEARS = "the year must be 1900 to 2099"


def format_id(prefix: str, year: int, number: int) -> str:
    """``format_id("RUN", 2026, 419)`` is ``RUN-26-000419``."""
    return f"{prefix}-{year % 100:02d}-{number:06d}"


def sort_key(identifier: str) -> int:
    """An id as a number that orders by year, then by number (contract, Reading)."""
    _, year, number = identifier.split("-")
    return int(year) * 10**12 + int(number)


def id_of_key(prefix: str, key: int) -> str:
    return format_id(prefix, *divmod(key, 10**12))


def id_named(data: Any, name: str, pattern: str | re.Pattern[str]) -> str | None:
    """The id in this field of a sent body, or None if the field is no well-formed id.

    The rest of the body may be wrong.
    """
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) and re.fullmatch(pattern, value) else None


def is_plain(text: str, pattern: str = LABEL) -> bool:
    """True if a text has only the characters of ``LABEL``, or of ``TEXT``."""
    # ``isprintable`` refuses more, but most texts pass it.
    return text.isprintable() or _UNPLAIN[pattern].search(text) is None


def escaped(text: str, pattern: str = LABEL) -> str:
    r"""Escape (``\x1b``) each character that the pattern does not have.

    Control characters hide or forge what people see.
    """
    if text.isprintable():
        return text
    return _UNPLAIN[pattern].sub(lambda odd: odd[0].encode("unicode_escape").decode(), text)


def parse_instant(text: str) -> datetime:
    """An RFC 3339 instant, any offset, as UTC; digits below a microsecond are dropped.

    Raises ValueError for any other text: without an offset, with a year outside 1900 to 2099, or
    with a leap second, which RFC 3339 allows but PostgreSQL would roll into the next day.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("must be an RFC 3339 instant with an offset")
    day, clock, fraction, offset = match.groups()
    zone = "+00:00" if offset in "Zz" else offset
    micros = (fraction or ".0")[1:7].ljust(6, "0")
    try:
        instant = datetime.fromisoformat(f"{day}T{clock}.{micros}{zone}").astimezone(UTC)
    except OverflowError as error:
        raise ValueError(_YEARS) from error
    if not EARLIEST <= instant < LATEST:
        raise ValueError(_YEARS)
    return instant


def is_date(text: str) -> bool:
    return _DATE.fullmatch(text) is not None


def parse_bound(text: str) -> datetime:
    """An instant as a query parameter has it: RFC 3339, or a plain date meaning 00:00Z."""
    if is_date(text):
        return parse_instant(f"{text}T00:00:00Z")
    return parse_instant(text)


InstantText = NewType("InstantText", str)
"""An instant as ``format_instant`` formats it, in an event that stores it as text."""


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with ``Z``: up to six decimals, no trailing zeros (contract, Conventions)."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    # msgspec is ten times as fast as isoformat, which calls tzinfo for the offset.
    text = _encode(instant)[1:-2].decode()
    return (text.rstrip("0") if instant.microsecond else text) + "Z"


def micros_of(instant: datetime) -> int:
    since = instant - _EPOCH
    # A division by a timedelta takes longer.
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def name_of_span(trace_id: bytes, span_id: bytes) -> str:
    """The name that a run has at its source if it is an OpenTelemetry span (contract, Traces)."""
    return f"{trace_id.hex()}-{span_id.hex()}"


def instant_of(micros: int) -> datetime:
    """The UTC instant so many microseconds after 1970-01-01.

    Raises OverflowError if no datetime can represent it.
    """
    return _EPOCH + micros * _MICROSECOND


def day_of(instant: datetime) -> date:
    # An event's instants are in UTC already, and a conversion takes as long as the rest.
    return (instant if instant.tzinfo is UTC else instant.astimezone(UTC)).date()


def week_of(instant: datetime) -> date:
    """The Monday of the instant's ISO week, in UTC."""
    day = day_of(instant)
    return day - timedelta(days=day.weekday())
