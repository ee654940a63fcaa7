"""The usage of random workloads equals the model of the raw log, and costs few rows to read."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ledger.engine.http.replies import AnswerOf
from ledger.engine.values.timeline import StateSpans
from ledger.engine.values.values import format_instant
from ledger.features.feed.routes.stories import ShownUsage
from projections.runs.usage import usage_read
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION
from tests.support.log_checker import check
from tests.support.model import STATUSES, model_of
from tests.support.plans import rows_touched
from tests.support.random_life import Life
from tests.support.soak import repeated
from tests.support.stored import stored_object
from tests.usage.usage_answers import APRIL, NOTHING, ask, check_in, days_of, used


@pytest.fixture(scope="module", params=repeated([1, 2, 3, 4]))
def life(edge: Edge, request: pytest.FixtureRequest) -> Life:
    life = Life(edge, request.param)
    life.live(70)
    if request.param % 2 == 0:
        life.close()
    return life


def test_accepted_facts_are_in_the_log_as_they_were_sent(edge: Edge, life: Life) -> None:
    """The model below gets the log, so the log must have the hours, runs and tokens sent."""
    rows = edge.select(
        "SELECT convert_from(state, 'UTF8'), originator_id, topic FROM ledger.ledger_events"
    )
    events = [(stored_object(text), stream, topic) for text, stream, topic in rows]
    by_fact = {event[0]["fact"]["id"]: event for event in events if "fact" in event[0]}
    assert len(life.accepted) > 100
    for sent in life.accepted:
        data = sent["data"]
        state, stream, topic = by_fact[sent["id"]]
        if sent["type"] != "execution.check_in_voided":  # which has the check-in's own
            for name in ("hours", "resource_id"):
                assert state["body"].get(name) == data.get(name)
        parts = [
            [each["model"], each["input"], each["output"], each["cache_read"], 0, each["reasoning"]]
            for each in data.get("token_usage", ())
        ]
        stored = state["body"].get("token_usage", [])
        assert [[*each, *[0] * (6 - len(each))] for each in stored] == parts
        tokens = sum(each[1] + each[2] for each in parts) if parts else data.get("tokens_used")
        assert state["body"].get("tokens_used") == tokens
        assert datetime.fromisoformat(state["occurred_at"]) == datetime.fromisoformat(sent["time"])
        assert stream == sent["subject"]
        assert topic.split("/")[0].split(".")[1] == sent["type"].split(".")[1]


def test_the_usage_equals_the_usage_that_the_log_tells(edge: Edge, life: Life) -> None:
    assert check(edge.conninfo).findings == []
    model = model_of(edge.conninfo)
    times = [datetime.fromisoformat(f["time"]).astimezone(UTC) for f in life.accepted]
    first, last = min(times), max(times)
    whole = first.replace(hour=0, minute=0, second=0, microsecond=0)
    spans = [(whole, whole + timedelta(days=30)), (first, last), (whole, last)]
    instants = times + [t.replace(hour=0, minute=0, second=0, microsecond=0) for t in times]
    for _ in range(25):
        start, end = sorted(life.random.sample(instants, 2))
        if start < end:
            spans.append((start, end + timedelta(microseconds=life.random.choice([0, 1]))))
    for start, end in spans:
        data = ask(edge, life.line, from_=start.isoformat(), to=end.isoformat())
        total, by_day = model.usage(life.line, start, end)
        assert data["total"] == total
        assert list(days_of(data).items()) == list(by_day.items())
        assert (data["from"], data["to"]) == (format_instant(start), format_instant(end))
    total, _ = model.usage(life.line, whole, whole + timedelta(days=30))
    assert total["hours"] > 5
    assert total["tokens_used"] > 0
    assert min(total["runs"][status] for status in ("completed", "failed", "cancelled")) > 0


def test_the_total_is_the_sum_of_the_days(edge: Edge, life: Life) -> None:
    data = ask(edge, life.line, from_=(edge.clock.now - timedelta(days=9)).isoformat())
    days, total = list(days_of(data).values()), data["total"]
    assert total["hours"] == round(sum(day["hours"] for day in days), 2)
    assert total["tokens_used"] == sum(day["tokens_used"] for day in days)
    for status in STATUSES:
        assert total["runs"][status] == sum(day["runs"][status] for day in days)
    assert total["hours_by_resource"] != []
    for resource in total["hours_by_resource"]:
        parts = [
            part["hours"]
            for day in days
            for part in day["hours_by_resource"]
            if part["resource_id"] == resource["resource_id"]
        ]
        assert resource["hours"] == round(sum(parts), 2)
    assert [day["date"] for day in data["by_day"]] == sorted(day["date"] for day in data["by_day"])


def test_the_usage_fits_its_documented_model(edge: Edge, life: Life) -> None:
    answer = edge.get(f"/v1/execution/{life.line}/usage")
    assert msgspec.json.decode(answer.content, type=AnswerOf[ShownUsage]).data.by_day
    data = answer.json()["data"]
    assert list(data) == ["from", "to", "total", "by_day"]
    assert list(data["total"]) == list(NOTHING)
    for day in data["by_day"]:
        assert list(day) == ["date", *NOTHING]


def test_usage_of_whole_days_touches_few_rows_however_many_facts_there_are(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(*(check_in(line, "2026-04-10T10:00:00Z", 0.01) for _ in range(1_000)))
    edge.accept(*(check_in(edge.fresh(), "2026-04-10T10:00:00Z", 0.01) for _ in range(50)))
    assert used(ask(edge, line, **APRIL)) == {"2026-04-10": {"hours": 10}}
    start = datetime(2026, 4, 1, tzinfo=UTC)
    days = [start + timedelta(days=n) for n in range(30)]
    values = {"organization": ORGANIZATION, "line_id": line, "limit": 10_000}
    values |= StateSpans(days).parameters
    assert rows_touched(edge, usage_read(frozenset({"organization"})), values) < 900
