"""Runs the commands of ``docs/installing.md`` in a folder that has only the release."""

import os
import re
import shutil
from pathlib import Path

from scripts.clients.shared import ROOT, run, service

PAGE = ROOT / "docs/installing.md"
BEFORE_THE_SERVICE = 2
"""How many blocks of commands need no service: checksums, and the installation itself."""


def try_release(dist: Path, build: Path) -> None:
    """Install the release as the page says, and use what was installed."""
    folder = build / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(dist, folder)
    blocks = re.findall(r"^```(\w+) sketch\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    quiet = os.environ | {
        "NPM_CONFIG_PACKAGE_LOCK": "false",
        "NPM_CONFIG_AUDIT": "false",
        "PYTHONPATH": "",
    }
    for _, text in blocks[:BEFORE_THE_SERVICE]:
        type_in(text, folder, quiet)
    with service(folder, folder / "service/bin/ledger", "") as environment:
        named = {"ELK_URL": environment["LEDGER"], "ELK_TOKEN": environment["TOKEN"]}
        for language, text in blocks[BEFORE_THE_SERVICE:]:
            if language == "ts":
                (folder / "app/report.ts").write_text(text)
            else:
                type_in(text, folder, environment | named | quiet)
    print("docs/installing.md: its commands install the release, and what they install works")


def type_in(text: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a block. Their output must have the lines that the page shows."""
    output = [line for line in text.splitlines() if not line.startswith(("$ ", " "))]
    script = "set -e\n" + re.sub(r"^\$ ", "", text, flags=re.MULTILINE)
    for line in output:
        script = script.replace(f"{line}\n", "", 1)
    printed = run("sh", "-c", script, cwd=folder, env=environment)
    if missing := [line for line in output if line not in printed.splitlines()]:
        raise SystemExit(f"{PAGE.name} shows {missing}, but the commands print:\n{printed}")
