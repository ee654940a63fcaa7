"""The metrics: each is documented, counts what its row says, and names no tenant."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from ledger.engine.log import nodes
from tests.support.data_dirs import MASTER_KEY
from tests.support.documents import CONTRACT
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION, fact
from tests.support.relay import Relay
from tests.support.sealing import seal
from tests.support.views import until

BY_THE_SUPERVISOR = {"ledger_restarts_total"}
"""``tests/whole/crash/test_restarts.py`` asks a whole service for these."""
BY_READ_NODES = {"ledger_beat_age_seconds"}
"""``tests/whole/standby/test_read_node.py`` asks a read node."""
BY_THE_DISPATCHER = {"ledger_webhook_deliveries_total"}
"""``tests/webhooks/test_metrics.py`` runs a dispatcher."""
WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ExclusiveLock'"
LEADER = """
INSERT INTO ledger.leader
SELECT (jsonb_populate_record(NULL::ledger.leader, jsonb_build_object(
    'loop', %s::text, 'node_id', %s::text, 'process', 'test', 'pid', 1, 'led_since', now(),
    'beaten_at', clock_timestamp() - %s * interval '1 second'
))).*
"""
OF_PYTHON = ("python_", "process_")
"""The prefixes of prometheus-client's own metrics."""


@pytest.fixture
def own(conninfo: str, settings: Settings) -> Iterator[Edge]:
    """A service on a ledger of its own."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        yield edge


def names_of(text: str) -> set[str]:
    """The names of metrics, as a query names them: a histogram without its suffixes.

    A single process, as of a test, also exports instants of creation.
    """
    found = set()
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        found.add(f"{family.name}{suffix}")
    return {name for name in found if not name.endswith("_created")}


def value(edge: Edge, name: str, **labels: str) -> float:
    """The value of a sample; 0 if there is none yet."""
    for family in text_string_to_metric_families(edge.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


def test_every_metric_is_documented_and_every_documented_metric_exists(edge: Edge) -> None:
    page = (CONTRACT / "health.md").read_text()
    table = page.partition("### Metrics")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(ledger_\w+)` \|", table, re.MULTILINE))
    exported = {one for one in names_of(edge.get("/metrics").text) if not one.startswith(OF_PYTHON)}
    elsewhere = BY_THE_SUPERVISOR | BY_THE_DISPATCHER | BY_READ_NODES
    assert len(documented) > 25
    assert elsewhere <= documented
    assert exported - elsewhere == documented - elsewhere


def test_no_metric_has_a_label_of_a_tenant(edge: Edge) -> None:
    edge.fresh()
    labels = {
        "route",
        "method",
        "status",
        "le",
        "type",
        "format",
        "outcome",
        "code",
        "projection",
        "loop",
        "severity",
    }
    labels |= {"version", "python", "postgres", "implementation", "major", "minor", "patchlevel"}
    for family in text_string_to_metric_families(edge.get("/metrics").text):
        for sample in family.samples:
            assert sample.labels.keys() <= labels | {"generation"}, sample
            assert ORGANIZATION not in str(sample)


def test_facts_count_by_type_and_outcome(edge: Edge) -> None:
    def counts(kind: str = "execution.checked_in") -> list[float]:
        outcomes = ("recorded", "duplicate", "refused")
        return [
            value(edge, "ledger_facts_total", type=kind, outcome=outcome) for outcome in outcomes
        ]

    line = edge.fresh("capacity")
    before, others = counts(), counts("other")
    one = fact("execution.checked_in", line, {"hours": 1})
    wrong = fact("execution.checked_in", line, {"hours": "many"})
    assert edge.send(one).status_code == 201
    assert edge.send(one).status_code == 200
    assert edge.send(wrong).status_code == 422
    edge.send_batch(fact("execution.checked_in", line, {"hours": 1}), one, wrong, {"a": 1}, 7)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 2, 2]
    made_up = fact(f"made.up.{time.time_ns()}", line, {})
    assert edge.send(made_up).status_code == 422
    assert [now - then for now, then in zip(counts("other"), others, strict=True)] == [0, 0, 3]
    assert edge.send(one, token=edge.token("read")).status_code == 403
    assert counts()[2] - before[2] == 3


def test_a_command_is_no_fact(edge: Edge) -> None:
    line = edge.fresh()
    before = value(edge, "ledger_facts_total", type="other", outcome="refused")
    assert edge.post(f"/v1/execution/{line}/resume", json={}).status_code in (409, 422)
    assert value(edge, "ledger_facts_total", type="other", outcome="refused") == before


def test_refusals_count_by_code_also_those_of_the_items_of_a_batch(edge: Edge) -> None:
    def count(code: str) -> float:
        return value(edge, "ledger_refusals_total", code=code)

    missing, invalid, unknown = count("not_found"), count("invalid_request"), count("unauthorized")
    assert edge.get("/v1/execution/LIN-26-999999").status_code == 404
    edge.send_batch(fact("execution.checked_in", "LIN-26-999999", {"hours": 1}), {"a": 1})
    assert edge.get("/v1/execution", token="none").status_code == 401
    assert count("not_found") - missing == 2
    assert count("invalid_request") - invalid == 1
    assert count("unauthorized") - unknown == 1


def test_an_append_counts_once_with_the_size_of_its_group(edge: Edge) -> None:
    line = edge.fresh("capacity")

    def read(suffix: str) -> list[float]:
        names = ("ledger_append_seconds", "ledger_append_lock_wait_seconds")
        return [value(edge, f"{name}{suffix}") for name in (*names, "ledger_append_group_size")]

    counts, sums = read("_count"), read("_sum")
    items = [fact("execution.checked_in", line, {"hours": 1}) for _ in range(40)]
    edge.accept(*items)
    assert [now - then for now, then in zip(read("_count"), counts, strict=True)] == [1, 1, 1]
    total, waited, size = (now - then for now, then in zip(read("_sum"), sums, strict=True))
    assert 0 < waited < total < 60
    assert size == 40


def test_a_wait_for_the_append_lock_shows_in_its_histogram_and_in_the_queue(own: Edge) -> None:
    line = own.fresh("capacity")
    waited = value(own, "ledger_append_lock_wait_seconds_sum")
    items = [fact("execution.checked_in", line, {"hours": 1}) for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(own.conninfo) as other:
            other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
            answering = pool.submit(own.send_batch, *items)
            until(lambda: value(own, "ledger_queue") == 3, "the queue")
            until(lambda: len(own.select(WAITING)) == 1, "the append's wait")
        assert answering.result(30).status_code == 200
    assert value(own, "ledger_append_lock_wait_seconds_sum") > waited
    assert value(own, "ledger_queue") == 0


def test_a_view_is_behind_by_the_time_that_the_first_event_it_lacks_has_waited(own: Edge) -> None:
    """Not by the time since the event that it reached: the log may have been quiet for months."""

    def lag() -> float:
        return value(own, "ledger_projection_lag_seconds", projection="execution")

    line = own.fresh("capacity")
    until(lambda: value(own, "ledger_projection_lag", projection="execution") == 0, "the view")
    assert lag() == 0
    own.service.loops.projector.stop()
    own.clock.now = datetime.now(UTC) - timedelta(seconds=100)
    with own.views_left_to_the_projector():
        own.accept(fact("execution.checked_in", line, {"hours": 1}))
        own.clock.advance(seconds=50)
        own.accept(fact("execution.checked_in", line, {"hours": 1}))
    assert 100 <= lag() < 130


def test_the_witness_is_as_old_as_the_first_event_that_it_does_not_cover(
    conninfo: str, tmp_path: Path
) -> None:
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, data_dir=tmp_path)

    def age() -> float:
        return value(edge, "ledger_witness_age_seconds")

    def report(seconds_ago: float) -> None:
        edge.clock.now = datetime.now(UTC) - timedelta(seconds=seconds_ago)
        edge.accept(fact("execution.checked_in", line, {"hours": 1}))

    def sealed() -> str:
        """Seal all events; return the checkpoint."""
        seal(conninfo, tmp_path / "sealed")
        return str(edge.select("SELECT note FROM ledger.checkpoint ORDER BY size DESC")[0][0])

    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh("capacity")
        edge.hold_read_notes()
        early = sealed()
        report(200)
        report(100)
        assert 200 <= age() < 230, "no node has beaten: the database's checkpoint counts"
        late = sealed()
        assert age() == 0
        node = nodes.node_id_in(tmp_path)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            nodes.beat(connection, node, "1", "all", early)
            assert 200 <= age() < 230, "the node's own witness counts"
            nodes.beat(connection, node, "1", "all", late)
            assert age() == 0
            report(50)
            assert 50 <= age() < 80
            nodes.beat(connection, node, "1", "all", "no note")
            assert 50 <= age() < 80


def test_the_loops_that_this_node_leads_differ_from_those_of_others(
    conninfo: str, tmp_path: Path
) -> None:
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, data_dir=tmp_path)
    node = nodes.node_id_in(tmp_path)
    leaders = [("own", node, 1), ("frozen", node, 30), ("others", "f" * 16, 1)]
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for leader in leaders:
                connection.execute(LEADER, leader)
        assert value(edge, "ledger_leads", loop="own") == 1
        assert value(edge, "ledger_leads", loop="frozen") == 0
        assert value(edge, "ledger_leads", loop="others") == 0


def test_a_wait_of_reads_for_a_connection_is_counted(own: Edge) -> None:
    """All connections of the read pool wait for a lock; a further read waits for a connection."""
    line = own.fresh("capacity")
    own.get(f"/v1/execution/{line}")
    waits = value(own, "ledger_pool_wait_seconds_count")
    # If one credential sent them all, some of these reads would be 429.
    tokens = [own.token("read", organization_id=f"ORG-26-00001{n}") for n in range(4)]
    with ThreadPoolExecutor(200) as pool:
        answers = list(
            pool.map(
                lambda n: own.get(f"/v1/execution?limit={n}", tokens[n % len(tokens)]),
                range(1, 90),
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert value(own, "ledger_pool_wait_seconds_count") > waits


def test_metrics_are_answered_without_a_database_and_go_on_with_it(
    conninfo: str, settings: Settings
) -> None:
    with closing(Relay(conninfo)) as relay:
        made = prepare_database(settings, relay.conninfo)
        with edge_of(settings, made) as edge:
            edge.fresh()
            version = build(edge)["postgres"]
            assert re.match(r"\d\d", version)
            relay.accepts_connections = False
            relay.cut()
            text = edge.get("/metrics").text
            assert "ledger_database_up 0.0" in text
            assert "ledger_append_seconds_count" in text
            of_the_database = {"ledger_webhook_backlog", "ledger_leads", "ledger_log_position"}
            assert not names_of(text) & of_the_database
            assert build(edge)["postgres"] == version, "the last version that was known"
            relay.accepts_connections = True
            until(lambda: value(edge, "ledger_database_up") == 1, "the database", 10.0)
            assert "ledger_webhook_backlog" in edge.get("/metrics").text


def test_gauges_that_take_too_long_are_left_out_and_the_database_counts_as_up(own: Edge) -> None:
    """A count of webhooks waits for a lock here."""
    with psycopg.connect(own.conninfo) as other:
        other.execute("LOCK TABLE ledger.delivery IN ACCESS EXCLUSIVE MODE")
        text = own.get("/metrics").text
    assert "ledger_database_up 1.0" in text
    assert "ledger_projection_lag_seconds" in text
    assert "ledger_webhook_backlog" not in text


def build(edge: Edge) -> dict[str, str]:
    """The labels of ``ledger_build_info``."""
    for family in text_string_to_metric_families(edge.get("/metrics").text):
        if family.name == "ledger_build_info":
            (sample,) = family.samples
            assert sample.value == 1
            return dict(sample.labels)
    raise AssertionError("no build")
