"""The form for a new statement, converted to the API's own body; names of periods."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from ledger.engine.http.reading import Identifier, Present
from ledger.engine.http.writing import Sent, checked
from ledger.engine.page.pages import Form, Typed
from ledger.engine.page.showing import Zone, duration, number, words
from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import Invalid
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.usage.page.periods import month_of, period_of
from ledger.features.usage.routes.statements import NewStatement, StatementDocument, ThenAndNow

_DAY = timedelta(days=1)

_Day = Annotated[str | None, Field(max_length=40)]


class StatementChoice(BaseModel):
    """The scope and the period of a new statement. An absent field has a default."""

    organization_id: Identifier = None
    workspace_id: Identifier = None
    first_day: _Day = None
    last_day: _Day = None
    time_zone: Annotated[str | None, Field(max_length=64)] = None
    replaces: Identifier = None

    def filled(
        self, now: datetime, zone: Zone, replaced: StatementDocument | None
    ) -> dict[str, str | None]:
        """The choice with its defaults: last month, or the values of the replaced statement."""
        time_zone = self.time_zone or (replaced.time_zone if replaced else zone.name)
        try:
            calendar = calendar_of(time_zone)
        except Invalid:
            calendar = calendar_of(zone.name)
        period = month_of(calendar.date_of(now)).moved(-1)
        if replaced is not None:
            period = period_of(calendar_of(replaced.time_zone), replaced.from_, replaced.to)
        whose: Any = replaced or self
        return {
            "organization_id": whose.organization_id,
            "workspace_id": whose.workspace_id,
            "first_day": self.first_day or f"{period.first}",
            "last_day": self.last_day or f"{period.last}",
            "time_zone": time_zone,
            "replaces": self.replaces,
        }


class NewQuery(StatementChoice, Present):
    """The parameters of the page with the form."""


class IssueForm(StatementChoice, Form):
    """The form that issues a statement."""

    note: Typed = None
    reference: Typed = None
    by_resource: Literal["on"] | None = None

    def sent(self, key: IdempotencyKey) -> Sent[NewStatement]:
        body: dict[str, Any] = {
            "workspace_id": self.workspace_id,
            "time_zone": self.time_zone,
            "note": self.note and self.note.replace("\r\n", "\n"),
            "reference": self.reference,
            "by_resource": self.by_resource is not None,
            "replaces": self.replaces,
        }
        if self.organization_id is not None:
            body["organization_id"] = self.organization_id
        try:
            body["from"], body["to"] = bounds_of_days(self.first_day, self.last_day)
        except Invalid as error:
            return Sent(None, key, error, body)
        return checked(body, NewStatement, key)


class WithdrawForm(Form):
    """The form that withdraws a statement."""

    reason: Typed = None


def bounds_of_days(first: str | None, last: str | None) -> tuple[str, str]:
    """Convert the first and the last day to an interval whose end is excluded. Raises Invalid."""
    found = list[date]()
    for name, text in (("first_day", first), ("last_day", last)):
        try:
            found.append(date.fromisoformat(text or ""))
        except ValueError as error:
            raise Invalid.at(f"/{name}", "must be a date, such as 2026-11-30") from error
    if found[1] == date.max:
        raise Invalid.at("/last_day", "must be a day that is over")
    return f"{found[0]}", f"{found[1] + _DAY}"


def period_name(start: datetime, end: datetime, time_zone: str) -> str:
    """The name of a period: ``June 2026``, ``2026-06-01 to 2026-06-14``, or two instants."""
    calendar = calendar_of(time_zone)
    period = period_of(calendar, start, end)
    if (calendar.begin(period.first), calendar.begin(period.beyond)) != (start, end):
        zone = Zone(time_zone)
        return f"{zone.plain(start)} to {zone.plain(end)}"
    return period.name


class ChangedNumber(NamedTuple):
    """A number of a period as known then and now, as texts."""

    name: str
    then: str
    now: str
    by: str


def differences(pair: ThenAndNow) -> Sequence[ChangedNumber]:
    then, now = pair.then, pair.now
    found = [
        _difference("Hours", then.hours, now.hours),
        _difference("Check-ins", then.check_ins, now.check_ins),
        _difference("Runs", sum((then.runs or {}).values()), sum((now.runs or {}).values())),
        _difference("Tokens", then.tokens_used, now.tokens_used),
    ]
    times: Sequence[tuple[Mapping[Any, float] | None, Mapping[Any, float] | None]] = (
        (then.seconds_by_state, now.seconds_by_state),
        (then.seconds_by_cause, now.seconds_by_cause),
    )
    for before, after in times:
        for name, seconds in (after or {}).items():
            earlier = (before or {}).get(name, 0.0)
            found.append(_difference(f"Time {words(name)}", earlier, seconds, is_time=True))
    return [each for each in found if each is not None]


def _difference(
    name: str, then: float | None, now: float | None, *, is_time: bool = False
) -> ChangedNumber | None:
    before, after = Decimal(str(then or 0)), Decimal(str(now or 0))
    if before == after:
        return None

    def formatted(amount: Decimal) -> str:
        return duration(float(amount)) if is_time else number(float(amount))

    sign = "+" if after > before else "−"
    return ChangedNumber(
        name, formatted(before), formatted(after), f"{sign}{formatted(abs(after - before))}"
    )
