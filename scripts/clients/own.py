"""The ledger's own TypeScript client: compare its types, compile it, and run its tests.

The tests in ``src/ledger_client_ts/tests`` run by Node's own runner, against the service that
``make clients`` has started. The programs of the client's README are compiled with them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "src/ledger_client_ts"
EXAMPLES = CLIENT / "build/shown"
PAGE = ROOT / "docs/integrating.md"
BLANK = ROOT / "build/clients/blank"
AT_ONCE = 4
"""How many files of tests run at a time. They wait more than they work."""
MOST_MS = 240_000
"""A file of tests that takes longer has failed. The long forms take two minutes."""


def prepare() -> None:
    """Install the tools of the client, compare its types, and compile it with its tests."""
    _run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund")
    from scripts.python_client.__main__ import document
    from scripts.typescript_client.modules import TYPES, made_types, schemas

    if TYPES.read_text() != made_types(schemas(document())):
        raise SystemExit("src/ledger_client_ts/src/types.ts is stale: make generate")
    shutil.rmtree(CLIENT / "build", ignore_errors=True)
    EXAMPLES.mkdir(parents=True)
    readme = (CLIENT / "README.md").read_text()
    for number, program in enumerate(fences("ts", readme)):
        (EXAMPLES / f"program_{number}.ts").write_text(program)
    _run("npm", "run", "build")
    _run("npx", "tsc", "--project", "tests")


def fences(language: str, text: str) -> list[str]:
    """The programs or the commands that a page shows."""
    return re.findall(rf"^```{language}\b.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test(environment: Mapping[str, str], *, is_short: bool) -> None:
    """Run the client's tests against a service; print those that fail."""
    program = Path(sys.executable).with_name("ledger")
    named = {"LEDGER_PROGRAM": str(program)} | ({} if is_short else {"LONG": "yes"})
    files = sorted(CLIENT.glob("build/tests/*.test.js"))
    flags = ("--test", f"--test-concurrency={AT_ONCE}", f"--test-timeout={MOST_MS}")
    _run("node", *flags, *files, env={**environment, **named})


def follow_the_page(environment: Mapping[str, str]) -> None:
    """Run the page's commands in an empty folder, about a line that is activated as on the page."""
    _begin_line(environment)
    shutil.rmtree(BLANK, ignore_errors=True)
    BLANK.mkdir(parents=True)
    _run("npm", "pack", "--silent", "--pack-destination", BLANK)
    section = PAGE.read_text().partition("\n## TypeScript\n")[2].partition("\n## ")[0]
    names = re.findall(r"\bas `(\w+\.ts)`", section)
    for name, program in zip(names, fences("ts", section), strict=True):
        (BLANK / name).write_text(program)
    lines = "".join(fences("console", section)).splitlines()
    commands = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    named = {"ELK_URL": environment["LEDGER"], "ELK_TOKEN": environment["TOKEN"]}
    named |= {"ELK_SOURCE": "/jobs", "NPM_CONFIG_PACKAGE_LOCK": "false"}
    named |= {"NPM_CONFIG_AUDIT": "false"}
    words = ("bash", "-c", f"set -em\n{commands}")  # -m: `kill %1` names a job
    printed = _run(*words, env={**environment, **named}, folder=BLANK).splitlines()
    output = [line for line in lines if not line.startswith("$ ")]
    assert [line for line in printed if line in output] == output, printed


def _begin_line(environment: Mapping[str, str]) -> None:
    data = {
        "organization_id": "ORG-26-000001",
        "workspace_id": "WS-26-000001",
        "product_line": "agent_gateway",
        "execution_model": "agent_runtime",
    }
    fact = {"specversion": "1.0", "id": "begins", "source": "/jobs", "subject": "LIN-26-000050"}
    fact |= {"type": "service_line.activated", "data": data}
    request = urllib.request.Request(
        f"{environment['LEDGER']}/v1/facts",
        json.dumps(fact).encode(),
        {"Authorization": f"Bearer {environment['TOKEN']}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()


def _run(*command: object, env: Mapping[str, str] = os.environ, folder: Path = CLIENT) -> str:
    """Run a command in the client's folder and return its output. Prints the output on failure."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        print(done.stdout)
        raise SystemExit(f"failed: {' '.join(words[:4])}")
    return done.stdout
