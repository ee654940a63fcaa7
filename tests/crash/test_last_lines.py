"""The end of a service that writes an access log: each answered request has left its line."""

import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.served import Served, free_port


class Unhurried(Served):
    """A service whose log writes once a minute, and at the end: a minute later than the test."""

    command = (
        sys.executable,
        "-c",
        "from ledger.api.machinery import access_log\n"
        "from ledger.cli.arguments import main\n"
        "access_log._EVERY_SECONDS = 60.0\n"
        "main()",
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_service_that_is_stopped_writes_the_lines_of_all_answered_requests_first(
    data_dir: Path, log_format: str
) -> None:
    settings = {"LEDGER_ACCESS_LOG": "true", "LEDGER_LOG_FORMAT": log_format}
    names = [f"req-{number}" for number in range(100)]
    with Unhurried(data_dir, free_port(), **settings) as service:
        with httpx.Client(base_url=service.address) as client:
            for name in names:
                assert client.get("/healthz", headers={"x-request-id": name}).status_code == 200
        assert "req-" not in service.said
        service.process.terminate()
        service.process.wait(30)
    assert re.findall(r"req-\d+", service.said) == names, "each once, and in order"
