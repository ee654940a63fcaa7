"""The README's tour can be followed: each command is run, and says what is printed there."""

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from tests.conftest import MASTER_KEY
from tests.support.served import LEDGER, Served, serving_at

README = (Path(__file__).parent.parent / "README.md").read_text()

BEGIN = [
    ("make setup", ""),
    ("export PATH=$PWD/.venv/bin:$PATH LEDGER_DATA_DIR=$(mktemp -d)", ""),
    ("ledger serve &", "Serving on http://127.0.0.1:8000"),
]
"""What the test does in its own way: it needs neither port 8000 nor a PostgreSQL of its own."""

CHANGING = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "an instant",
    r'"request_id": "\w+"': "the id of a request",
    r'"cursor":"\w+"': "a cursor",
    r'duration_ms":\d+': "a duration",
}
ISSUED = re.compile(r"\b(RUN|EVT|KEY)-\d\d-")
"""Ids that the ledger issues have the year of their recording."""


def steps() -> list[tuple[str, str]]:
    """The tour's commands, each with what is printed below it."""
    section = README.split("\n## Tour\n")[1].split("\n## ")[0]
    found: list[tuple[list[str], list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            else:
                found[-1][0 if line.startswith("    ") else 1].append(line)
    return [("\n".join(command), "\n".join(output)) for command, output in found]


def follow(served: Served, commands: list[str]) -> list[str]:
    """What each command prints, all of them in one shell."""
    mark = "--- the next command ---"
    year = f"{datetime.now(UTC):%y}"
    script = f"\necho; echo '{mark}'\n".join(commands)
    script = ISSUED.sub(rf"\1-{year}-", script).replace(
        "localhost:8000", f"localhost:{served.port}"
    )
    path = f"{Path(LEDGER).parent}:{served.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=served.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return [printed.strip() for printed in done.stdout.split(mark)]


def lasting(printed: str) -> str:
    """What is the same each time."""
    for pattern, name in CHANGING.items():
        printed = re.sub(pattern, f"<{name}>", printed)
    return ISSUED.sub(r"\1-YY-", printed)


def test_the_tour_can_be_followed_and_says_what_comes(conninfo: str, tmp_path: Path) -> None:
    begin, tour = steps()[: len(BEGIN)], steps()[len(BEGIN) :]
    assert begin == BEGIN
    assert len(tour) >= 10
    database = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", workers=1, **database) as served:
        printed = follow(served, [command for command, _ in tour])
    for (command, said), came in zip(tour, printed, strict=True):
        assert lasting(came) == lasting(said), command
