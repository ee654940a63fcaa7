"""The files of ``deploy/`` are what their programs take, and each alert fires and is explained."""

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from scripts.rehearse.deployed import DEPLOY, filled
from tests.support.documents import ROOT
from tests.support.proxies import disguises, status_of
from tests.support.served import free_port
from tests.support.views import until

RULES = DEPLOY / "prometheus/rules.yml"
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.M)
RULES_TESTS = sorted(RULES.parent.glob("*_test.yml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def run(*command: str) -> str:
    """The output of a program, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where a program is missing; the checks on every push install it."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing")


@needs("promtool")
def test_every_alert_fires_in_a_unit_test_and_is_silent_while_all_is_well() -> None:
    run("promtool", "check", "rules", str(RULES))
    assert run("promtool", "test", "rules", *map(str, RULES_TESTS)).count("SUCCESS") == 2


def test_every_alert_has_a_unit_test_that_expects_it() -> None:
    tests = "".join(path.read_text() for path in RULES_TESTS)
    fires = re.findall(
        r"^      - alertname: (\w+)\n        eval_time: \S+\n        exp_alerts:\n", tests, re.M
    )
    assert len(ALERTS) >= 15
    assert set(fires) == set(ALERTS)


def test_every_alert_has_an_entry_of_its_name_in_the_runbook() -> None:
    headings = re.findall(r"^### (Ledger\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M)
    assert sorted(headings) == sorted(ALERTS)


def test_every_metric_of_the_rules_is_in_the_contract() -> None:
    named = set(re.findall(r"\bledger_\w+", RULES.read_text()))
    health = (ROOT / "docs/contract/health.md").read_text()
    assert {name for name in named if f"`{name}`" not in health} == set()
    assert len(named) >= 10


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.parametrize("role", ["all", "api", "loops", "read"])
def test_a_unit_is_accepted_by_systemd_for_each_role(unit: Path, role: str, tmp_path: Path) -> None:
    program = tmp_path / "ledger"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    installed = tmp_path / unit.name.replace("@", f"@{role}")
    installed.write_text(unit.read_text().replace("/usr/local/bin/ledger", str(program)))
    assert str(program) in installed.read_text()
    assert run("systemd-analyze", "verify", "--man=no", str(installed)) == ""


def haproxy_in(folder: Path, port: int) -> Path:
    """haproxy's configuration, on a port, before a database and nodes that do not exist."""
    servers = {"databases": "    server a 127.0.0.1:1 check", "nodes": "    server b 127.0.0.1:2"}
    socket = folder / "socket"
    text = filled("haproxy/haproxy.cfg", address="127.0.0.1", socket=socket, **servers)
    configuration = folder / "haproxy.cfg"
    text = text.replace("bind 127.0.0.1:5000", f"bind 127.0.0.1:{free_port()}")
    configuration.write_text(text.replace("bind 127.0.0.1:8000", f"bind 127.0.0.1:{port}"))
    return configuration


@needs("haproxy")
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    configuration = haproxy_in(tmp_path, 8000)
    assert run("haproxy", "-c", "-f", str(configuration)).strip() in (
        "",
        "Configuration file is valid",
    )


@needs("haproxy")
def test_haproxy_passes_no_request_for_the_metrics_on_in_whatever_disguise(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen(["haproxy", "-db", "-f", str(haproxy_in(tmp_path, port))]) as haproxy:
        try:
            until(lambda: is_open(port), "haproxy, which should listen")
            for target in disguises():
                for method in ("GET", "HEAD", "POST"):
                    assert status_of("127.0.0.1", port, target, method) in (400, 403), target
            # There is no node to which these could be passed on.
            for target in ("/readyz", "/v1/metrics", "/metrics/", "/"):
                assert status_of("127.0.0.1", port, target) == 503
        finally:
            haproxy.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "file",
    [
        "etcd/etcd.yml",
        "patroni/patroni.yml",
        "patroni/ledger.sql",
        "haproxy/haproxy.cfg",
        "prometheus/prometheus.yml",
    ],
)
def test_a_template_has_no_word_that_the_rehearsal_does_not_fill_in(file: str) -> None:
    words = set(re.findall(r"\$(\w+)", (DEPLOY / file).read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "scripts/rehearse").glob("*.py"))
    assert words
    assert {word for word in words if not re.search(rf"\b{word}\b", sources)} == set()
    assert "$" not in filled(file, **dict.fromkeys(words, "1"))
