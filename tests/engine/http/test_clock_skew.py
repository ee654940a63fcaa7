"""A node whose clock is wrong writes nothing, says so, reads, and recovers by itself."""

import itertools
import re
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from ledger.app.composition.database import prepare_database
from ledger.app.composition.writing import create_writer, running, utc_now
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.values.errors import ClockSkew
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.request import Receipt
from ledger.features.facts.report import command_of
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import parsed
from tests.support.served import Installed, Served, free_port, post, serving_at
from tests.support.views import head, query, until

SKEW = re.compile(r"^ledger_clock_skew_seconds (\S+)$", re.MULTILINE)


def log_of(edge: Edge) -> Log:
    """The log of the worker's writer, which compares the clocks."""
    log: Log = edge.service.app.state.services.writer._log
    return log


def set_ahead(edge: Edge, seconds: float) -> None:
    """Set the worker's clock ahead of the database's."""
    log_of(edge).wall = lambda: time.time() + seconds


@pytest.mark.parametrize("seconds", [6.0, -6.0])
def test_a_worker_with_a_wrong_clock_refuses_writes_until_the_clock_is_right(
    conninfo: str, settings: Settings, seconds: float
) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        start = fact("run.started", None, {"service_line_id": line})
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready")
        set_ahead(edge, seconds)
        before = head(conninfo)
        answer = edge.send(start)
        assert (answer.status_code, answer.json()["code"]) == (503, "clock_skew")
        assert answer.headers["retry-after"] == "2"
        pause = edge.post(f"/v1/execution/{line}/pause", json={"reason": "because"})
        assert (pause.status_code, pause.json()["code"]) == (503, "clock_skew")
        assert head(conninfo) == before
        assert edge.get(f"/v1/execution/{line}").status_code == 200, "reads go on"
        ready = edge.get("/readyz")
        assert (ready.status_code, ready.json()["clock"]) == (503, "skewed")
        assert float(SKEW.findall(edge.get("/metrics").text)[0]) == pytest.approx(seconds, abs=0.5)
        set_ahead(edge, 0.0)
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready again")
        assert edge.send(start).status_code == 201


def test_a_wrong_clock_is_found_without_any_fact(conninfo: str, settings: Settings) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready")
        set_ahead(edge, 3600.0)
        until(lambda: edge.get("/readyz").status_code == 503, "the wrong clock to be found", 5.0)


def test_a_clock_that_is_off_by_less_than_5_s_may_write(conninfo: str, settings: Settings) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        start = {"service_line_id": line}
        for ahead in (4.0, -4.0):
            set_ahead(edge, ahead)
            assert edge.send(fact("run.started", None, start)).status_code == 201


def test_a_process_that_stood_still_during_an_append_may_write(
    conninfo: str, settings: Settings
) -> None:
    """Its clocks are read a minute after the append began, and both have moved."""
    log, begun = Log(conninfo), time.time()
    wall_times, steadies = (itertools.chain([0.0], itertools.repeat(60.0)) for _ in range(2))
    log.wall = lambda: begun + next(wall_times)
    log.steady = lambda: next(steadies)
    with running(create_writer(settings, log, utc_now)) as writer:
        made = writer.execute(command_of(parsed(activation()), COMMAND_LINE))
    assert isinstance(made, Receipt), made


class SetWhenRead:
    """The clock of a machine that is set an hour ahead at the moment at which it is read."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead

    def __call__(self) -> datetime:
        self.ahead = 3600.0
        return datetime.fromtimestamp(self.wall(), UTC)


@pytest.mark.parametrize("probes", [False, True])
def test_a_clock_that_is_set_after_it_was_compared_writes_nothing(
    conninfo: str, settings: Settings, probes: bool
) -> None:
    """Each later event of every node would be recorded behind that hour, and leases would end."""
    log, clock = Log(conninfo), SetWhenRead()
    log.wall = clock.wall
    listened = query(conninfo, "SELECT listened_at FROM ledger.listening")
    with running(create_writer(settings, log, clock, probes=probes)) as writer:
        if probes:
            until(lambda: clock.ahead > 0, "a probe that reads the clock")
        made = writer.execute(command_of(parsed(activation()), COMMAND_LINE))
        assert isinstance(made, ClockSkew), made
        assert writer.is_skewed
    assert query(conninfo, "SELECT count(*) FROM ledger.ledger_events") == [(0,)]
    assert query(conninfo, "SELECT listened_at FROM ledger.listening") == listened


def test_a_writer_with_a_wrong_clock_does_not_note_that_the_service_listens(
    conninfo: str, settings: Settings
) -> None:
    """The note would put off the end of every lease by the hour that the clock is ahead."""
    log = Log(conninfo)
    log.wall = lambda: time.time() + 3600
    writer = create_writer(settings, log, utc_now, probes=True)
    before = query(conninfo, "SELECT listened_at FROM ledger.listening")
    writer.start()
    try:
        until(lambda: writer.is_skewed, "the skew")
        tried = log.wall()
        until(lambda: log.wall() > tried + 1.5, "another probe")
        assert query(conninfo, "SELECT listened_at FROM ledger.listening") == before
        log.wall = time.time
        listened = "SELECT listened_at > now() - interval '5 s' FROM ledger.listening"
        until(lambda: query(conninfo, listened) == [(True,)], "the note")
    finally:
        writer.stop()
        log.close()


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_a_service_whose_machine_is_an_hour_ahead_writes_nothing(
    conninfo: str, tmp_path: Path
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "right", **environment) as right:
        token = right.token()
        with right.client(token) as client:
            assert post(client, activation()).status_code == 201

        class Ahead(Served):
            command = ("faketime", "-f", "+1h", *Installed.command)

        ahead = Ahead(tmp_path / "ahead", free_port(), **environment)
        with ExitStack() as stack:
            stack.callback(ahead.end)
            ahead.begin()
            client = stack.enter_context(ahead.client(token))
            until(lambda: says_skewed(client), f"the clock; it said: {ahead.output}", 20)
            refused = post(client, fact("execution.checked_in", LINE, {"hours": 1}))
            assert (refused.status_code, refused.json()["code"]) == (503, "clock_skew")
            assert client.get(f"/v1/execution/{LINE}").status_code == 200
            assert "the clock is +3600" in ahead.output


def says_skewed(client: httpx.Client) -> bool:
    """True if the service already answers, and names its clock."""
    try:
        return bool(client.get("/readyz").json().get("clock") == "skewed")
    except httpx.ConnectError:
        return False
