"""The ledger for users' own tests, and the README that shows it."""

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from execution_ledger import Conflict, Forbidden, NotFound
from execution_ledger.testing import AsyncFakeLedger, FakeLedger

from tests.client.support import CLIENT, ENVIRONMENT, Service
from tests.support.documents import fences

README = CLIENT / "README.md"
LINE = "LIN-26-000050"


def test_a_fake_ledger_shows_the_reported_facts() -> None:
    with FakeLedger(source="/mine") as ledger:
        ledger.report("execution.checked_in", LINE, {"hours": 1}, id="row-1")
        ledger.report("execution.checked_in", LINE, {"hours": 1}, id="row-1")
        assert ledger.flush()
        ledger.lines.block(LINE, blocker_id="POL-7", cause="approval_gap")
        facts = [(fact["type"], fact["subject"], fact["source"]) for fact in ledger.facts]
    assert facts == [
        ("execution.checked_in", LINE, "/mine"),
        ("execution.blocked", LINE, "/mine"),
    ]


def test_a_fake_ledger_shows_each_attempt_of_a_run() -> None:
    with FakeLedger() as ledger:
        for attempt in (1, 2):
            with (
                contextlib.suppress(ZeroDivisionError),
                ledger.run(LINE, name="night", attempt=attempt),
            ):
                assert 1 / (attempt - 1)
        facts = [(run.name, run.status) for run in ledger.reported_runs]
    assert facts == [("night", "failed"), ("night", "completed")]


def test_a_fake_ledger_refuses_and_answers_as_the_test_says() -> None:
    with FakeLedger() as ledger:
        ledger.refuse("run.*", code="invalid_state", detail="Paused.")
        with pytest.raises(Conflict, match="Paused"), ledger.run(LINE, on_refused="raise"):
            """Never reached."""
        with pytest.raises(NotFound, match="give one by answers"):
            ledger.events.types()
        ledger.answers("/v1/event-types", {"data": []})
        assert ledger.events.types() == []
        assert ledger.reported_runs == []


def test_a_fake_ledger_passes_a_check_unless_the_test_says_otherwise() -> None:
    with FakeLedger() as ledger:
        line = ledger.check(LINE).service_line
        assert (line and line.state, ledger.check().service_line) == ("running", None)
        body = {"id": "KEY-26-000001", "type": "api_key", "permissions": ["read"], "version": "0"}
        ledger.answers("/v1/credential", {"data": body})
        with pytest.raises(Forbidden):
            ledger.check()


def test_a_fake_ledger_works_on_a_loop() -> None:
    async def whole() -> list[str]:
        async with AsyncFakeLedger() as ledger:
            await ledger.runs.start(LINE, external_id="one")
            await ledger.runs.cancel(external_id="one")
            return [run.status for run in ledger.received.runs()]

    assert asyncio.run(whole()) == ["cancelled"]


def test_the_programs_of_the_readme_run(service: Service, tmp_path: Path) -> None:
    service.edge.accept(
        {
            "specversion": "1.0", "id": "begins", "source": "/jobs", "subject": LINE,
            "type": "service_line.activated", "data": {
                "organization_id": "ORG-26-000001", "workspace_id": "WS-26-000001",
                "product_line": "agent_gateway", "execution_model": "agent_runtime",
            },
        }
    )  # fmt: skip
    programs = [f for f in fences(README) if f.language == "python" and not f.is_sketch]
    assert len(programs) == 5
    # One interpreter runs all of them: its start costs more than they do.
    whole = "".join(
        f"def program_{number}() -> None:\n{textwrap.indent(program.text, '    ')}\n"
        for number, program in enumerate(programs)
    )
    whole += "".join(f"program_{number}()\n" for number in range(len(programs)))
    environment = {"ELK_URL": service.address, "ELK_TOKEN": service.token, "ELK_SOURCE": "/jobs"}
    done = subprocess.run(
        [sys.executable, "-c", whole],
        env=ENVIRONMENT | environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    assert "409 invalid_state" in done.stdout
    runs = service.edge.data(f"/v1/execution/{LINE}/runs")
    assert [run["status"] for run in runs] == ["completed"] * 4
    assert (tmp_path / "events.csv").exists()
