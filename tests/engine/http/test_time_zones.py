"""A date in a request is a date of the zone that the request names (contract, Reading)."""

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from ledger.engine.values.calendar import zone_names
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, fact
from tests.support.ledger import new_id
from tests.usage.usage_answers import ask, check_in

TOKYO = "Asia/Tokyo"
ZONE = {"time_zone": TOKYO}
MINE = {"organization_id": ORGANIZATION}

LINES, RUNS = "/v1/execution/export", "/v1/runs/export"
EVENTS, AUDIT = "/v1/events/export", "/v1/audit-logs/export"
EXPORTS = [LINES, RUNS, EVENTS, AUDIT]
RANGES = [RUNS, EVENTS, AUDIT]

INSTANTS = {
    ("2026-06-02", "UTC"): "2026-06-02T00:00:00Z",
    ("2026-06-02", TOKYO): "2026-06-01T15:00:00Z",
    ("2026-06-03", "UTC"): "2026-06-03T00:00:00Z",
    ("2026-06-03", TOKYO): "2026-06-02T15:00:00Z",
}


class World(NamedTuple):
    edge: Edge
    token: str
    line: str

    def exported(self, path: str, **params: str) -> str:
        answer = self.edge.get(path, self.token, params=_named(path, params))
        assert answer.status_code == 200, answer.text
        return answer.text


def _named(path: str, params: dict[str, str]) -> dict[str, str]:
    named = {name.rstrip("_"): value for name, value in params.items()}
    return MINE | named if path in (EVENTS, AUDIT) else named


@pytest.fixture(scope="module")
def world(edge: Edge) -> World:
    """A line with a run every third hour of three days; the clock then stands at a noon."""
    edge.clock.now = datetime(2026, 6, 1, tzinfo=UTC)
    token, line = edge.token("read", "audit:read"), edge.fresh()
    for _ in range(24):
        edge.accept(fact("run.requested", new_id("RUN"), {"service_line_id": line}))
        edge.clock.advance(hours=3)
    edge.clock.now = datetime(2026, 6, 5, 12, tzinfo=UTC)
    return World(edge, token, line)


@pytest.mark.parametrize("path", RANGES)
def test_the_range_of_an_export_is_of_dates_of_the_zone(world: World, path: str) -> None:
    found = {}
    for zone in ("UTC", TOKYO):
        dates = world.exported(path, from_="2026-06-02", to="2026-06-03", time_zone=zone)
        start, end = INSTANTS["2026-06-02", zone], INSTANTS["2026-06-03", zone]
        assert dates == world.exported(path, from_=start, to=end)
        assert len(dates.splitlines()) == 8
        # The offset in an instant counts, not the zone.
        assert dates == world.exported(path, from_=start, to=end, **ZONE)
        found[zone] = dates
    assert found[TOKYO] != found["UTC"]
    assert found["UTC"] == world.exported(path, from_="2026-06-02", to="2026-06-03")


@pytest.mark.parametrize("path", [LINES, RUNS])
def test_an_export_as_of_a_date_is_of_the_date_in_the_zone(world: World, path: str) -> None:
    in_tokyo = world.exported(path, as_of="2026-06-02", **ZONE)
    assert in_tokyo == world.exported(path, as_of=INSTANTS["2026-06-02", TOKYO])
    in_utc = world.exported(path, as_of="2026-06-02", time_zone="UTC")
    assert in_utc == world.exported(path, as_of="2026-06-02") != in_tokyo


def test_a_date_is_in_the_future_until_the_zone_has_it(world: World) -> None:
    # The time is 21:00 in Tokyo, and past midnight on Kiritimati.
    tomorrow = {"as_of": "2026-06-06"}
    for zone, is_applied in (("UTC", False), (TOKYO, False), ("Pacific/Kiritimati", True)):
        for path in (LINES, RUNS, f"/v1/execution/{world.line}/usage"):
            answer = world.edge.get(path, world.token, params=tomorrow | {"time_zone": zone})
            if is_applied:
                assert answer.status_code == 200, answer.text
            else:
                errors = assert_problem(answer, 422, "invalid_request")["errors"]
                assert [error["pointer"] for error in errors] == ["/as_of"]


def test_a_range_that_ends_before_its_start_in_the_zone_is_refused(world: World) -> None:
    instant = "2026-06-01T20:00:00Z"
    assert world.exported(EVENTS, from_=instant, to="2026-06-02")
    params = MINE | ZONE | {"from": instant, "to": "2026-06-02"}
    for path in (EVENTS, AUDIT):
        errors = assert_problem(world.edge.get(path, world.token, params=params), 422,
                                "invalid_request")["errors"]  # fmt: skip
        assert [error["pointer"] for error in errors] == ["/to"]


def test_a_cursor_of_the_audit_log_belongs_to_the_instants_whatever_the_zone(world: World) -> None:
    start = INSTANTS["2026-06-02", TOKYO]
    parameters = MINE | {"from": start, "limit": "3"}
    page = world.edge.get("/v1/audit-logs", world.token, params=parameters).json()
    cursor = page["meta"]["cursor"]
    rest = world.exported(AUDIT, from_="2026-06-02", cursor=cursor, **ZONE)
    assert rest == world.exported(AUDIT, from_=start, cursor=cursor)
    whole = world.exported(AUDIT, from_="2026-06-02", **ZONE).splitlines()
    assert rest.splitlines() == whole[3:]
    params = MINE | {"from": "2026-06-02", "cursor": cursor}
    answer = world.edge.get(AUDIT, world.token, params=params)
    assert_problem(answer, 400, "invalid_cursor")


# Usage.


@pytest.fixture(scope="module")
def used(world: World) -> str:
    """A line with an hour at each of some instants around midnights in Berlin."""
    line = world.edge.fresh("capacity")
    hours = {
        "2026-03-28T22:59:59.999999Z": 1,
        "2026-03-28T23:00:00Z": 2,
        "2026-03-29T21:59:59.999999Z": 4,  # a day of 23 hours
        "2026-03-29T22:00:00Z": 8,
    }
    world.edge.accept(*(check_in(line, time, amount) for time, amount in hours.items()))
    return line


@pytest.mark.parametrize(
    ("zone", "total"),
    [("Europe/Berlin", 6), ("UTC", 4 + 8), (TOKYO, 1 + 2), ("America/New_York", 4 + 8)],
)
def test_usage_is_of_dates_of_the_zone(world: World, used: str, zone: str, total: float) -> None:
    data = ask(world.edge, used, from_="2026-03-29", to="2026-03-30", time_zone=zone)
    assert data["total"]["hours"] == total
    again = ask(world.edge, used, from_=data["from"], to=data["to"])
    assert (again["from"], again["to"]) == (data["from"], data["to"])
    assert again["total"] == data["total"]


def test_usage_tells_its_range_as_instants_in_utc(world: World, used: str) -> None:
    def bounds(**params: str) -> tuple[str, str]:
        data = ask(world.edge, used, **params)
        return data["from"], data["to"]

    berlin = {"from_": "2026-03-29", "to": "2026-03-30", "time_zone": "Europe/Berlin"}
    assert bounds(**berlin) == ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
    # Clocks show neither the one midnight nor any time of the other date.
    sao_paulo = {"from_": "2018-11-04", "to": "2018-11-05", "time_zone": "America/Sao_Paulo"}
    assert bounds(**sao_paulo) == ("2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z")
    apia = {"from_": "2011-12-30", "to": "2011-12-31", "time_zone": "Pacific/Apia"}
    assert bounds(**apia) == ("2011-12-30T10:00:00Z",) * 2


def test_usage_without_bounds_is_that_of_the_last_30_dates_of_the_zone(edge: Edge) -> None:
    line = edge.fresh("capacity")
    edge.clock.now = datetime(2026, 11, 3, 22, 30, tzinfo=UTC)

    def bounds(**params: str) -> tuple[str, str]:
        data = ask(edge, line, **params)
        return data["from"], data["to"]

    berlin = {"time_zone": "Europe/Berlin"}
    assert bounds() == ("2026-10-05T00:00:00Z", "2026-11-04T00:00:00Z")
    assert bounds(**berlin) == ("2026-10-04T22:00:00Z", "2026-11-03T23:00:00Z")
    assert bounds(**ZONE) == ("2026-10-05T15:00:00Z", "2026-11-04T15:00:00Z")
    assert bounds(from_="2026-11-01", **berlin) == ("2026-10-31T23:00:00Z", "2026-11-03T23:00:00Z")
    assert bounds(from_="2026-11-09", **berlin) == ("2026-11-08T23:00:00Z",) * 2
    assert bounds(to="2026-10-26", **berlin) == ("2026-09-25T22:00:00Z", "2026-10-25T23:00:00Z")
    # From 06:00 to 06:00, although an hour came twice between them.
    within = bounds(to="2026-11-01T05:00:00Z", **berlin)
    assert within == ("2026-10-02T04:00:00Z", "2026-11-01T05:00:00Z")
    # The clock of the answer is `as_of`: that date has just begun.
    edge.accept(check_in(line, "2026-11-03T22:00:00Z", 1))
    edge.clock.now = datetime(2026, 12, 9, tzinfo=UTC)
    then = bounds(as_of="2026-12-01", **berlin)
    assert then == ("2026-11-01T23:00:00Z", "2026-12-01T23:00:00Z")


# Names.


@pytest.mark.parametrize("path", [*EXPORTS, "/v1/execution/{line}/usage"])
@pytest.mark.parametrize(
    "name",
    [
        *("", "Mars/Olympus", "europe/berlin", "../zones", "Factory", "posixrules", "localtime"),
        *("+02:00", "UTC,Asia/Tokyo", "Asia/Tokyo ", "ü", "Z" * 65),
    ],
)
def test_an_unknown_zone_is_refused(world: World, path: str, name: str) -> None:
    where = path.format(line=world.line)
    answer = world.edge.get(where, world.token, params=_named(path, {"time_zone": name}))
    errors = assert_problem(answer, 422, "invalid_request")["errors"]
    assert [error["pointer"] for error in errors] == ["/time_zone"]
    if len(name) <= 64:
        assert errors[0]["detail"] == "must be an IANA time zone, such as Europe/Berlin"


def test_a_link_is_the_zone_that_it_names(world: World) -> None:
    dates = {"from_": "2026-06-02", "to": "2026-06-03"}
    assert world.exported(EVENTS, time_zone="Japan", **dates) == world.exported(
        EVENTS, **dates, **ZONE
    )


def test_every_export_accepts_a_zone_and_no_list_does(world: World) -> None:
    document: dict[str, Any] = world.edge.get("/openapi.json").json()
    zoned = {
        path: parameter["schema"]
        for path, operations in document["paths"].items()
        for parameter in operations.get("get", {}).get("parameters", [])
        if parameter["name"] == "time_zone"
    }
    exports = {path for path in document["paths"] if path.endswith("/export")}
    sums = {"/v1/execution/{line_id}/usage", "/v1/usage", "/v1/compare"}
    # A statement has a zone of its own.
    exports.remove("/v1/statements/{statement_id}/export")
    assert zoned.keys() == exports | sums
    for schema in zoned.values():
        assert schema["default"] == "UTC"
        for name in zone_names():
            assert re.fullmatch(schema["pattern"], name)
            assert len(name) <= schema["maxLength"]
    assert exports == {*EXPORTS, "/v1/usage/export", "/v1/compare/export", "/v1/alerts/export"}
    for path in ("/v1/events", "/v1/runs", f"/v1/execution/{world.line}/timeline"):
        answer = world.edge.get(path, world.token, params=ZONE)
        assert_problem(answer, 422, "invalid_request")
