"""The end of a service that writes an access log: each answered request has left its line."""

import re
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from ledger.app.cli.arguments import main
from ledger.engine.http.machinery import access_log
from tests.support.data_dirs import MASTER_KEY
from tests.support.served import Served, free_port
from tests.support.soak import repeated


def _write_seldom(arguments: Sequence[str]) -> int:
    access_log._EVERY_SECONDS = 60.0
    return main(arguments)


class Unhurried(Served):
    """A service whose log writes once a minute, and at the end: a minute later than the test."""

    entry = staticmethod(_write_seldom)


@pytest.mark.parametrize("log_format", repeated(["json", "text"]))
def test_a_service_that_is_stopped_writes_the_lines_of_all_answered_requests_first(
    conninfo: str, tmp_path: Path, log_format: str
) -> None:
    settings = {"LEDGER_ACCESS_LOG": "true", "LEDGER_LOG_FORMAT": log_format}
    settings |= {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    names = [f"req-{number}" for number in range(100)]
    with Unhurried(tmp_path / "data", free_port(), 1, role="api", **settings) as service:
        with httpx.Client(base_url=service.address) as client:
            for name in names:
                assert client.get("/healthz", headers={"x-request-id": name}).status_code == 200
        assert "req-" not in service.output
        service.process.terminate()
        service.process.wait(30)
    assert re.findall(r"req-\d+", service.output) == names, "each once, and in order"
