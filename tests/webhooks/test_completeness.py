"""``scripts/completeness.py`` proves, against a running service, that no event was missed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.facts import LINE, ORGANIZATION, activation, fact
from tests.support.served import Served, free_port, post, run_ledger, serving_at

SCRIPT = Path(__file__).parents[2] / "scripts" / "completeness.py"
PERMISSIONS = ("read", "write", "webhooks:manage")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("completeness", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event(number: int, before: str | None, after: str) -> dict[str, Any]:
    payload = {"state_before": before, "state_after": after}
    name = f"EVT-26-{number:06d}"
    return {"id": name, "type": "execution.idle", "service_line_id": LINE, "payload": payload}


def test_missing_additional_and_misplaced_events_are_named(script: ModuleType) -> None:
    feed = ["a", "b", "c"]
    assert script.differences("stream", feed, feed) == []
    assert script.differences("stream", ["a", "c"], feed) == ["stream: b is missing"]
    assert script.differences("stream", [*feed, "d"], feed) == ["stream: d is not in the feed"]
    assert script.differences("stream", ["a", "c", "b"], feed) == [
        "stream: the order is not the feed's"
    ]
    assert script.differences("stream", ["a", "b", "b", "c"], feed) == [
        "stream: the order is not the feed's"
    ]


def test_a_hole_in_a_lines_chain_of_states_is_named(script: ModuleType) -> None:
    whole = [event(1, "running", "paused"), event(2, "paused", "running")]
    assert script.broken_chains(whole) == []
    torn = [event(1, "running", "paused"), event(3, "running", "idle")]
    assert script.broken_chains(torn) == [f"{LINE}: the chain of states breaks at EVT-26-000003"]


def token_of(served: Served) -> str:
    options = ["--organization", ORGANIZATION, "--permission", *PERMISSIONS]
    done = run_ledger(served.environment, "keys", "create", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.soak
def test_no_event_of_a_running_service_is_missed_by_stream_feed_or_webhook(tmp_path: Path) -> None:
    environment = {"LEDGER_WEBHOOK_ALLOW_PRIVATE": "true"}
    with serving_at(tmp_path / "data", workers=1, **environment) as served:
        token = token_of(served)
        command = [sys.executable, str(SCRIPT), "--url", served.address, "--token", token]
        command += ["--seconds", "4", "--receive", str(free_port())]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as check,
            served.client(token) as client,
        ):
            assert post(client, activation()).status_code == 201
            reported = 0
            while check.poll() is None and reported < 2_000:
                client.post("/v1/facts", json=fact("execution.blocked", LINE, blocker(reported)))
                reported += 1
            assert check.stdout is not None
            output = check.stdout.read()
            assert check.wait(30) == 0, output
        assert "No event was missed." in output
        streamed, *_ = output.split()
        assert int(streamed.replace(",", "")) > 10
        assert "each signature verified" in output


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_an_unreachable_service_is_named_at_once(url: str) -> None:
    command = [sys.executable, str(SCRIPT), "--url", url, "--token", "elk_x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(url)
    assert "cannot be reached: " in done.stderr
    assert done.stderr.count("\n") == 1


def blocker(number: int) -> dict[str, Any]:
    return {"blocker_id": f"b-{number}", "cause": "approval_gap"}
