"""Failures of a single server: a full disk, and everything that begins with a backup."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

from scripts.rehearse.load import CLIENT_SECONDS, activation
from scripts.rehearse.nodes import ORGANIZATION, Node, fetch
from scripts.rehearse.packages import newer_programs, postgres_programs
from scripts.rehearse.programs import until
from scripts.rehearse.scenario import Course, Goal, Scenario
from scripts.rehearse.scenarios.losses import (
    adopt,
    decide,
    dump,
    is_sealed_up_to,
    restore,
)
from scripts.rehearse.sql import query
from scripts.rehearse.stage import Stage

_LOSSY = Goal(loses=True, alerts=("LedgerSealingStopped",))
_RUNNING = "LIN-26-000002"
_KIND = "application/cloudevents+json"
_ADMITTED_SECONDS = 10.0
"""How soon writes must continue once the database takes them (contract, Several nodes)."""


def _fill_disk(course: Course) -> None:
    stage = course.stage
    filler = course.world.server.folder / "filler"
    try:
        _fill(filler)
        for alert in ("LedgerAppendsFailing", "LedgerDiskFilling"):
            course.world.prometheus.await_fired(alert)
        for node in stage.nodes:
            until(partial(_is_refusing, node), f"{node.name} to say 503", 30)
    except TimeoutError as error:
        course.faults.append(str(error))
    finally:
        filler.unlink()
    # A server that has ended on the full disk is started again, as its service manager would.
    course.world.server.start()
    began = time.monotonic()
    course.load.await_more(5)
    seconds = time.monotonic() - began
    course.expect(seconds <= _ADMITTED_SECONDS, f"writes went on after {seconds:.1f} s")


def _is_refusing(node: Node) -> bool:
    return node.readiness()[0] == 503


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def _restore_with_witness(course: Course) -> None:
    stage, run = course.stage, _start_run(course.stage)
    backup = course.world.folder / "with-witness.dump"
    dump(course.world.server.url(), backup, course.world.server.programs)
    audit = _erase(stage, run)
    course.load.await_more(100)
    _move(course, backup)
    stage.start_nodes()
    adopt(course)
    again = stage.nodes[0].run("runs", "erase", "--from-audit", "-", stdin=audit)
    course.expect(again.stderr.startswith("1 erased"), f"runs erase says: {again.stderr.strip()}")
    status, answer = fetch(f"{stage.nodes[0].address}/v1/runs/{run}", CLIENT_SECONDS, stage.token)
    is_erased = status == 200 and json.loads(answer)["data"]["erased_at"] is not None
    course.expect(is_erased, f"the erased run is readable: {status}")


def _restore_without_witness(course: Course) -> None:
    stage = course.stage
    backup = course.world.folder / "without-witness.dump"
    dump(course.world.server.url(), backup, course.world.server.programs)
    course.load.await_more(100)
    _move(course, backup)
    for node in stage.nodes:
        node.forget()
    stage.start_nodes()
    try:
        for node in stage.nodes:
            until(partial(_is_degraded, node), f"{node.name} to wait for a witness", 15)
        course.world.prometheus.await_fired("LedgerSealingBehind")
    except TimeoutError as error:
        course.faults.append(str(error))
    decide(course, "all nodes were lost")


def _is_degraded(node: Node) -> bool:
    return node.readiness()[1].get("status") == "degraded"


def _go_back_in_time(course: Course) -> None:
    stage = course.stage
    old, url = course.world.server, course.world.server.url("postgres", "postgres")
    archive, base = course.world.folder / "archive", old.folder / "base"
    archive.mkdir()
    shutil.chown(archive, "postgres", "postgres")
    old.stop()
    old.configure(
        archive_mode="on", archive_command=f"test ! -f {archive}/%f && cp %p {archive}/%f"
    )
    old.start()
    old.run("pg_basebackup", "-d", url, "-D", str(base), "-c", "fast", "-X", "none")
    course.load.await_more(100)
    ((wanted,),) = query(url, "SELECT clock_timestamp()::text")
    course.load.await_more(100)
    stage.stop_nodes()
    ((last,),) = query(url, "SELECT pg_walfile_name(pg_switch_wal())")
    until(lambda: (archive / last).exists(), "the archive")
    old.stop()
    server = course.world.new_server()
    base.rename(server.data)
    server.configure(
        port=str(server.port),
        unix_socket_directories=str(server.folder),
        archive_mode="off",
        restore_command=f"cp {archive}/%f %p",
        recovery_target_time=wanted,
        recovery_target_action="promote",
    )
    (server.data / "recovery.signal").touch()
    shutil.chown(server.data / "recovery.signal", "postgres", "postgres")
    server.start()
    stage.use(server.url())
    stage.start_nodes()
    adopt(course)


def _upgrade_postgres(course: Course) -> None:
    stage, programs = course.stage, newer_programs()
    stage.stop_nodes()
    backup = course.world.folder / "upgrade.dump"
    dump(course.world.server.url(), backup, course.world.server.programs)
    course.world.server.stop()
    server = course.world.new_server(programs)
    server.create()
    restore(server.url(), backup, programs)
    stage.use(server.url())
    stage.start_nodes()
    course.load.await_more(20)
    answer = stage.nodes[0].readiness()[1]
    wanted = answer["sealing"]["position"] + answer["sealing"]["lag"]
    try:
        until(lambda: is_sealed_up_to(stage, wanted), "sealing to go on by itself", 60)
    except TimeoutError as error:
        course.faults.append(str(error))


def _move(course: Course, backup: Path) -> None:
    """Lose the server, and restore the backup on another one."""
    stage = course.stage
    stage.stop_nodes()
    course.world.server.stop()
    server = course.world.new_server()
    server.create()
    restore(server.url(), backup, postgres_programs())
    stage.use(server.url())


def _start_run(stage: Stage) -> str:
    """Make a run that has ended, with a payload."""
    stage.post("/v1/facts", activation(_RUNNING, "agent_runtime"), _KIND)
    fact: dict[str, object] = {"specversion": "1.0", "source": "/rehearsal"}
    started = {"service_line_id": _RUNNING, "input": {"secret": 1}}
    answer = stage.post(
        "/v1/facts", fact | {"id": "started", "type": "run.started", "data": started}, _KIND
    )
    run = str(answer["subject"])
    ended = {"id": "completed", "type": "run.completed", "subject": run, "data": {}}
    stage.post("/v1/facts", fact | ended, _KIND)
    return run


def _erase(stage: Stage, run: str) -> str:
    """Erase a run; return the audit log, as an operator exports it every day."""
    stage.post(f"/v1/runs/{run}/erase", {"reason": "asked for"})
    path = f"/v1/audit-logs/export?organization_id={ORGANIZATION}&action=run.erase"
    return fetch(f"{stage.nodes[0].address}{path}", CLIENT_SECONDS, stage.token)[1]


SCENARIOS = [
    Scenario(
        "disk-full",
        "disk full",
        _fill_disk,
        Goal(alerts=("LedgerAppendsFailing", "LedgerDiskFilling")),
    ),
    Scenario("restore", "backup restored, with witness", _restore_with_witness, _LOSSY),
    Scenario(
        "restore-anew",
        "backup restored, without witness",
        _restore_without_witness,
        Goal(loses=True, alerts=("LedgerSealingBehind",)),
    ),
    Scenario("point-in-time", "point-in-time recovery", _go_back_in_time, _LOSSY),
    Scenario("postgres-upgrade", "PostgreSQL upgraded by dump", _upgrade_postgres, Goal()),
]
