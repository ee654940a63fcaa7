"""Run the commands of the documents as they are written, on machines with systemd.

``make rehearse-written`` builds the example of ``docs/high-availability.md``, does what
``docs/runbook.md`` and ``docs/operating.md`` say, and checks the results. The exit code is 1 if a
command failed, or if a fact was lost that should not be. Needs root, and Debian.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from scripts.rehearse.isolation import is_isolated, isolate
from scripts.rehearse.nodes import ORGANIZATION, fetch
from scripts.rehearse.packages import (
    bring_up_to_date,
    install,
    newer_programs,
    postgres_programs,
)
from scripts.rehearse.pages import packages_named_in
from scripts.rehearse.programs import until
from scripts.rehearse.receiver import Receiver
from scripts.rehearse.tally import tally
from scripts.rehearse.town import MEMBERS, NODES, SETTINGS, Town

_BUILD = "high-availability.md"
_RUNBOOK = "runbook.md"
_OPERATING = "operating.md"
_ARCHIVE = "The archive, and going back to an instant"

_FURTHER_PACKAGES = {
    "systemctl": "systemd",
    "etcdctl": "etcd-client",
    "envsubst": "gettext-base",
    "jq": "jq",
}

_HOLD = """systemd-run --quiet --uid=postgres \
    psql ledger -c 'BEGIN; LOCK TABLE ledger.ledger_events; SELECT pg_sleep(600)'
sleep 6
"""
"""An administrator's session whose lock stops all appends."""

_WRAPPED = """
psql "$LEDGER_DATABASE_URL" -qAtX \
    -c "SELECT encode(wrapped, 'hex') FROM ledger.run_key WHERE run_id = '{run}'"
"""

_SEARCH = """
import pathlib, sys
key = bytes.fromhex(sys.argv[1])
for path in pathlib.Path(sys.argv[2]).rglob("*"):
    if path.is_file() and key in path.read_bytes():
        print(path)
"""

_END_SESSION = "su - postgres -c 'psql ledger' <<< 'SELECT pg_terminate_backend({pid})'"


def main() -> int:
    """Follow the documents."""
    install(_FURTHER_PACKAGES)
    if not is_isolated():
        # The machines reach no mirror: their `apt-get` must have nothing left to fetch.
        bring_up_to_date(packages_named_in(_BUILD))
    isolate("scripts.rehearse.written")
    folder = Path(tempfile.mkdtemp(prefix="ledger-rehearsal-"))
    folder.chmod(0o755)
    began, town = time.monotonic(), Town(folder)
    try:
        town.start()
        _build(town)
        _serve_through_repairs(town)
        _go_back_with_patroni(town)
        _keep_single_server(town)
    finally:
        town.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"All was carried out as written, in {time.monotonic() - began:.0f} s.")
    return 0


def _build(town: Town) -> None:
    for name in (*NODES, "proxy"):
        town.follow(name, _BUILD, "etcd")
    for name in MEMBERS:
        town.follow(name, _BUILD, "PostgreSQL")
        if name == MEMBERS[0]:
            town.await_members(name, name, 0)
    town.await_members("pg1", "pg1")
    town.follow("pg1", _BUILD, "The database")
    town.follow("a", _BUILD, "The nodes", 1)
    # The receiver of the rehearsal's webhooks has a private address.
    town.type("a", "echo LEDGER_WEBHOOK_ALLOW_PRIVATE=true >> ledger.env")
    _copy_settings(town, "b")
    for name in NODES:
        town.follow(name, _BUILD, "The nodes", 2)
    for name in NODES:
        town.await_ready(name)
    town.follow("proxy", _BUILD, "haproxy and Prometheus")


def _copy_settings(town: Town, name: str) -> None:
    for file in ("master.key", "ledger.env"):
        text = town.type("a", f"cat {file}")
        town.type(name, f"umask 077\ncat > {file} <<'END'\n{text}END")


def _serve_through_repairs(town: Town) -> None:
    """The repairs during which the service runs on: no fact may be lost."""
    town.make_key("a")
    with town.load("repairs", "proxy") as load:
        load.await_more(20)
        _inspect(town)
        load.await_more(20)
        _start_elsewhere(town)
        load.await_more(20)
        _free_the_lock(town)
        load.await_more(20)
        _enable_endpoint(town)
        _find_master_key(town)
        load.await_more(20)
        town.follow("pg1", _RUNBOOK, "LedgerNoStandby")
        town.await_members("pg1", "pg1", 1)
        town.await_members("pg1", "pg1")
        load.await_more(20)
        town.follow("pg1", _BUILD, "PostgreSQL's own restarts")
        town.await_members("pg1", "pg2")
        load.await_more(20)
    found = tally(load, town.url("pg2"))
    print(f"{found}; no writes for {load.gap(('front',)):.1f} s", flush=True)
    if found.lost or found.doubled:
        raise RuntimeError("facts were lost or doubled")
    _verify(town, "a")


def _inspect(town: Town) -> None:
    town.follow("a", _RUNBOOK, "First look", 0)
    town.follow("pg1", _RUNBOOK, "First look", 1)
    town.follow("a", _RUNBOOK, "LedgerNodeDown")
    town.follow("a", _RUNBOOK, "LedgerDatabaseDown")
    for name in ("a", "pg1"):
        town.follow(name, _RUNBOOK, "LedgerClockSkew")
    town.type("b", "systemctl kill --signal=STOP ledger@all")
    town.follow("b", _RUNBOOK, "LedgerNodeDown", 1)
    until(lambda: fetch(f"{town.address('b')}/readyz", 2.0)[0] != 200, "the end of b")
    town.await_ready("b")


def _start_elsewhere(town: Town) -> None:
    """Start a node on another host, with an empty data directory, in place of a lost one."""
    _copy_settings(town, "single")
    town.follow("single", _BUILD, "The nodes", 2)
    town.await_ready("single")
    end = "systemctl disable --now ledger@all; rm -r /var/lib/ledger-all; userdel ledger"
    town.type("single", end)


def _free_the_lock(town: Town) -> None:
    town.type("pg1", _HOLD)
    output = town.follow("pg1", _RUNBOOK, "LedgerAppendsFailing")
    (pid,) = {line.split("|")[0].strip() for line in output.splitlines() if "PgSleep" in line}
    if f"{{{pid}}}" not in output:
        raise RuntimeError(f"nobody waits for the session {pid}: {output}")
    town.type("pg1", _END_SESSION.format(pid=pid))


def _enable_endpoint(town: Town) -> None:
    receiver = Receiver(town.center)
    receiver.status = 410
    body = {"url": receiver.url, "event_types": ["*"]}
    endpoint = str(town.send("a", "POST", "/v1/webhooks", body)["id"])
    until(lambda: receiver.answered, "the first delivery", 60)
    until(
        lambda: town.send("a", "GET", f"/v1/webhooks/{endpoint}", None)["disabled_reason"],
        "the endpoint to be disabled",
    )
    receiver.status = 200
    key = f"export TOKEN={town.token}\n"
    found = town.follow("a", _RUNBOOK, "LedgerEndpointDisabled", endpoint=endpoint, before=key)
    if f'"{endpoint}"' not in found or '"enabled":true' not in found:
        raise RuntimeError(f"the endpoint was not enabled: {found}")
    until(lambda: 200 in receiver.answered, "the deliveries to go on", 60)


def _find_master_key(town: Town) -> None:
    for name in NODES:
        town.type(name, "rm /etc/ledger/master.key")
        town.follow(name, _RUNBOOK, "The master key is lost")
        town.type(name, "cmp master.key /etc/ledger/master.key; systemctl restart ledger@all")
        town.await_ready(name)


def _go_back_with_patroni(town: Town) -> None:
    for name in MEMBERS:
        town.follow(name, _BUILD, _ARCHIVE, 0)
    town.follow("pg2", _BUILD, _ARCHIVE, 1)
    town.await_members("pg2", "pg2")
    with town.load("archived", "proxy") as load:
        load.await_more(20)
        count, instant = len(load.acknowledged), _now()
        load.await_more(20)
    town.await_sealed("a")
    for name in NODES:
        town.type(name, "systemctl stop ledger@all")
    for name in ("pg1", "pg3", "pg2"):
        town.follow(name, _BUILD, _ARCHIVE, 2)
    town.follow("pg2", _BUILD, _ARCHIVE, 3, instant=instant)
    town.await_members("pg2", "pg2", 0)
    town.follow("pg2", _BUILD, _ARCHIVE, 4)
    for name in ("pg1", "pg3"):
        town.type(name, "systemctl start patroni")
    town.await_members("pg2", "pg2")
    for name in NODES:
        town.type(name, "systemctl start ledger@all")
    for name in NODES:
        town.await_ready(name)
    _adopt(town, "a")
    found = tally(load, town.url("pg2"))
    print(f"{found}; {count} were acknowledged before the instant", flush=True)
    if not 0 < found.lost <= found.acknowledged - count or found.doubled or found.reused:
        raise RuntimeError("the database was not taken back to the instant")


def _keep_single_server(town: Town) -> None:
    """A single server: its archive, a recovery, and a move to another version of PostgreSQL."""
    old = postgres_programs().parent.name
    new, files = _newer_version()
    _start_single(town, old)
    town.follow("single", _OPERATING, "Back up", 2, old=old)
    town.await_ready("single")
    with town.load("single", "single") as load:
        load.await_more(20)
        run = town.make_run("single")
        load.await_more(20)
        instant = _now()
        load.await_more(20)
        _erase(town, run)
    town.await_sealed("single")
    town.type("single", "systemctl stop ledger@all")
    town.follow("single", _OPERATING, "Go back to an instant", old=old, instant=instant)
    town.type("single", "systemctl start ledger@all")
    town.await_ready("single")
    _bring_lost_events_back(town, old)
    _adopt(town, "single")
    _erase_again(town, run, old)
    town.type("single", f"ln -s {files} /usr/lib/postgresql/{new}")
    page = ("single", _OPERATING, "Another version of PostgreSQL")
    town.follow(*page, old=old, new=new, before=SETTINGS)
    town.await_ready("single")
    with town.load("moved", "single") as load:
        load.await_more(20)
    town.await_sealed("single")
    _verify(town, "single")


def _start_single(town: Town, version: str) -> None:
    """Start a node that uses Debian's own server."""
    create = f"pg_createcluster --port 5432 {version} main"
    town.type("single", f"test -e /etc/postgresql/{version}/main || {create}")
    town.type("single", f"systemctl start postgresql@{version}-main")
    town.follow("single", _BUILD, "The database")
    _copy_settings(town, "single")
    town.type("single", "sed -i 's/pg1,pg2,pg3/localhost/' ledger.env")
    town.follow("single", _BUILD, "The nodes", 2)
    town.await_ready("single")
    town.make_key("single")


def _bring_lost_events_back(town: Town, version: str) -> None:
    """Check that sealing continues on the old server's files; then lose the events again."""
    town.await_stopped("single")
    folder = f"/var/lib/postgresql/{version}"
    for one, other, then in (
        ("restored", "before", town.await_sealed),
        ("before", "restored", town.await_stopped),
    ):
        town.type("single", f"systemctl stop ledger@all postgresql@{version}-main")
        town.type("single", f"cd {folder}; mv main {one}; mv {other} main")
        town.type("single", f"systemctl start postgresql@{version}-main ledger@all")
        town.await_ready("single")
        then("single")


def _erase(town: Town, run: str) -> None:
    """Erase a run, and export the audit log to the single server's operator."""
    town.send("single", "POST", f"/v1/runs/{run}/erase", {"reason": "asked for"})
    path = f"/v1/audit-logs/export?organization_id={ORGANIZATION}"
    export = f"curl -sf -H 'Authorization: Bearer {town.token}' '{town.address('single')}{path}'"
    town.type("single", f"{export} > audit.jsonl")


def _erase_again(town: Town, run: str, version: str) -> None:
    """Erase what the recovery has restored; afterwards no file of the server has the key."""
    town.type("single", f"pg_conftool {version} main set wal_recycle off")
    town.type("single", f"systemctl reload postgresql@{version}-main")
    key = town.type("single", f"{SETTINGS}{_WRAPPED.format(run=run)}").strip()
    if not key or not _files_with(town, key, version):
        raise RuntimeError("the recovery has not brought the key of the run back")
    output = town.follow("single", _RUNBOOK, "Erasures after a restore", before=SETTINGS)
    town.follow("single", _OPERATING, "How long an erased key survives")
    town.await_archived("single", f"/var/lib/postgresql/{version}/main")
    town.follow("single", _OPERATING, "How long an erased key survives")
    if found := _files_with(town, key, version):
        raise RuntimeError(f"the key is left in {found}; runs erase said {output}")


def _files_with(town: Town, key: str, version: str) -> str:
    """The files of the server with these bytes, given in hexadecimal digits."""
    folder = f"/var/lib/postgresql/{version}/main"
    return town.type("single", f"python3 -c '{_SEARCH}' {key} {folder}").strip()


def _newer_version() -> tuple[str, Path]:
    """The version of the embedded PostgreSQL, and its folder. Debian has only one version."""
    folder = newer_programs().parent
    done = subprocess.run([folder / "bin/postgres", "--version"], capture_output=True, text=True)
    return done.stdout.split()[-1].split(".")[0], folder


def _now() -> str:
    """The present instant, to which the database will be recovered."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}+00"


def _adopt(town: Town, name: str) -> None:
    town.await_stopped(name)
    town.follow(name, _RUNBOOK, "Sealing has stopped", before=SETTINGS)
    town.await_sealed(name)
    _verify(town, name)


def _verify(town: Town, name: str) -> None:
    print(town.type(name, f"{SETTINGS}\nledger verify"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
