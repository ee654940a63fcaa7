"""The documentation can be followed: each command and snippet prints what the page shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path
from typing import NamedTuple

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.programs import find_programs
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied, empty, execute
from tests.support.documents import CONTRACT, README, ROOT, Step, fences, pages, steps
from tests.support.sealing import keep_lineage
from tests.support.served import LEDGER, free_port, serving_at

BEGIN = [
    Step("make setup"),
    Step(
        "export PATH=$PWD/.venv/bin:$PATH LEDGER_DATA_DIR=$(mktemp -d)"
        " LEDGER_WEBHOOK_ALLOW_PRIVATE=true"
    ),
    Step("ledger serve &", "Serving on http://127.0.0.1:8000"),
]
"""The tour's first commands. The test starts its service itself: port 8000 may be taken."""

CHANGING = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "an instant",
    r'"request_id": "\w+"': "the id of a request",
    r'"cursor":"\w+"': "a cursor",
    r'duration_ms":\d+': "a duration",
}
ISSUED = re.compile(r"\b(RUN|EVT|KEY|WHK|AUD|STM|WCH|ALR)-\d\d-")
"""Ids that the ledger issues have the year of their recording."""

OPTIONAL = {
    "duckdb": "duckdb",
    "pandas": "pandas",
    "langchain": "langchain_core",
    "prefect": "prefect",
}
"""Imports that only some snippets need, by their packages. CI has the first two, for 240 MB."""

CLIENT = ROOT / "src/ledger_client"
MARK = "--- exit code "
QUIET = {"PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
"""Settings with which Prefect prints no log, and calls no host, where it is installed."""
LOOPBACK = {"LEDGER_WEBHOOK_ALLOW_PRIVATE": "true"}
TOGETHER = (
    "contract/facts contract/health page contract/state contract/access security",
    "contract/reading contract/usage integrating",
    "contract/feeds contract/command-line contract/traces",
)
"""Pages that are followed one after the other with one service, whose start costs 1 s of processor
time. No page of these changes the output of a later one. Any other page has its own service."""

TOURED = "toured"
"""The database that README's tour leaves behind."""


def is_make(step: Step) -> bool:
    """True if a step builds, tests or measures everything, which is too much for a test."""
    return step.command.startswith("make ")


def tour() -> list[Step]:
    """The steps of README, from the making of a key on."""
    found = [step for step in steps(README) if step == BEGIN[0] or not is_make(step)]
    assert found[: len(BEGIN)] == BEGIN
    return found[len(BEGIN) :]


def own_steps(page: Path) -> list[Step]:
    """The steps of a page after README's tour, from which all other pages continue."""
    found = [] if page == README else steps(page)
    return [step for step in found if not is_make(step) and has_packages(step)]


def visits() -> list[list[Path]]:
    """The pages with steps of their own. Each list has a service of its own."""
    here = ROOT / "docs"
    pages_by_name = {
        page.relative_to(here).with_suffix("").as_posix(): page
        for page in pages()
        if own_steps(page)
    }
    together = [[pages_by_name.pop(name) for name in names.split()] for names in TOGETHER]
    return [*together, *([page] for page in pages_by_name.values())]


def has_packages(step: Step) -> bool:
    """True if the optional packages are here that a snippet imports, or a module of the client."""
    named = re.findall(r"^(?:import|from) (?:execution_ledger\.)?(\w+)", step.command, re.M)
    return all(find_spec(OPTIONAL[name]) for name in named if name in OPTIONAL)


def follow(
    conninfo: str, folder: Path, program: Path, commands: list[str], **environment: str
) -> list[str]:
    """Run commands in one shell, with a service on a database; return the output of each.

    The folder replaces the repository's: commands write files into it.
    """
    for name in ("docs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    settings = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY} | environment
    with serving_at(folder / "data", workers=1, **settings, **LOOPBACK) as served:
        script = "".join(f"{command}\ncode=$?; echo; echo '{MARK}'$code\n" for command in commands)
        script = ISSUED.sub(rf"\1-{datetime.now(UTC):%y}-", script)
        script = script.replace("localhost:8000", f"localhost:{served.port}")
        script = script.replace("8001", str(free_port()))
        path = {"PATH": path_of(folder / "bin", program), "PYTHONPATH": str(CLIENT)} | QUIET
        done = subprocess.run(
            ["bash", "-c", script],
            env=served.environment | path | {"LEDGER": served.address},
            cwd=folder,
            stdout=subprocess.PIPE,
            # As on a terminal: pages show the errors and the chatter of commands too.
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    parts = re.split(rf"\n{MARK}(\d+)\n", done.stdout)
    codes = list(zip(commands, parts[1::2], strict=True))
    assert [(command, code) for command, code in codes if code != "0"] == []
    return parts[:-1:2]


def path_of(folder: Path, program: Path) -> str:
    """Where programs are found: ``jq``, ``ledger``, Python, PostgreSQL's, then the machine's."""
    folder.mkdir()
    jq = folder / "jq"
    # Without the packages' own search, an interpreter starts in half the time.
    command = f'"{sys.executable}" -S "{ROOT}/tests/support/jq_command.py"'
    jq.write_text(f'#!/bin/sh\nPYTHONPATH="{get_path("platlib")}" exec {command} "$@"\n')
    jq.chmod(0o755)
    found = [program.parent, Path(LEDGER).parent, find_programs(None) / "bin"]
    folders = [folder, *found, os.environ["PATH"]]
    return ":".join(map(str, folders))


def lasting(printed: str) -> str:
    """The part of an output that is the same each time."""
    for pattern, name in CHANGING.items():
        printed = re.sub(pattern, f"<{name}>", printed)
    return ISSUED.sub(r"\1-YY-", printed).strip()


def assert_printed(page: list[Step], printed: list[str]) -> None:
    """Hold the outputs that a page shows against the outputs that were printed."""
    for step, output in zip(page, printed, strict=True):
        assert lasting(output) == lasting(step.output), step.command


class Toured(NamedTuple):
    """The outputs of README's tour, and the key that it made."""

    printed: list[str]
    token: str
    data: Path
    """The data directory of that service."""


@pytest.fixture(scope="module")
def toured(
    server: EmbeddedPostgres, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Toured]:
    """The tour, followed once. Pages continue from copies of its database."""
    with copied(server.url, TOURED) as conninfo:
        commands = [*(step.command for step in tour()), "echo $TOKEN"]
        folder = tmp_path_factory.mktemp("tour")
        *printed, token = follow(conninfo, folder, program, commands)
        yield Toured(printed, token.strip(), folder / "data")


def test_the_tour_can_be_followed_and_prints_the_outputs_that_it_shows(toured: Toured) -> None:
    assert_printed(tour(), toured.printed)
    assert sum(bool(step.output) for step in tour()) == 9


@pytest.mark.parametrize("visited", visits(), ids=lambda v: "+".join(page.stem for page in v))
def test_a_page_can_be_followed_and_prints_the_outputs_that_it_shows(
    visited: list[Path], server: EmbeddedPostgres, program: Path, toured: Toured, tmp_path: Path
) -> None:
    setup = [f"export TOKEN={toured.token}", *(s.command for s in tour() if "() {" in s.command)]
    steps = [step for page in visited for step in own_steps(page)]
    commands = [*setup, *(step.command for step in steps)]
    # A service with another data directory would be another node, and one without a witness.
    shutil.copytree(toured.data, tmp_path / "data")
    with (
        copied(server.url, "page", TOURED) as conninfo,
        empty(server.url, "restored") as restored,
    ):
        # The copy is another database, in which ids would be skipped as after a loss, and nothing
        # would be signed before all nodes have had the time to report.
        execute(conninfo, "DELETE FROM ledger.lineage")
        execute(conninfo, "DELETE FROM ledger.node")
        keep_lineage(conninfo, tmp_path / "data" / "sealed")
        printed = follow(conninfo, tmp_path, program, commands, RESTORED_DATABASE_URL=restored)
    assert_printed(steps, printed[len(setup) :])


def test_make_commands_that_pages_name_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = [step.command.split()[1] for page in pages() for step in steps(page) if is_make(step)]
    assert len(named) >= 3
    for target in named:
        assert f"\n{target}:" in makefile, target


def test_examples_in_json_are_json() -> None:
    found = [fence for page in pages() for fence in fences(page) if fence.language == "json"]
    assert found
    for fence in found:
        json.loads(fence.text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """The names that links use for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Paths begin at the repository's root, in ``src/ledger``, or where the page lies."""
    named = re.findall(r"`([\w/.-]+\.(?:py|md|sql|html|js|css))(?:::\w+)?`", page.read_text())
    for path in named:
        if not any(word in path for word in ("NAME", "NNNN")):
            candidates = [ROOT / path, ROOT / "src/ledger" / path, page.parent / path]
            assert any(candidate.exists() for candidate in candidates), path


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"::(test_\w+)", page.read_text()))
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_docstrings_cite_pages_of_the_contract_by_their_titles() -> None:
    pages = "".join(page.read_text() for page in CONTRACT.glob("*.md"))
    titles = {"Conventions", *re.findall(r"^# (.+)$", pages, re.M)}
    cited = set()
    for folder in ("src", "projections", "scripts", "tests"):
        for source in (ROOT / folder).rglob("*.py"):
            words = " ".join(re.sub(r"\n\s*#?", " ", source.read_text()).split())
            title = r"\b[Cc]ontract, (Command line|Several nodes|Sign-in|[A-Z][a-z]+)"
            cited |= set(re.findall(title, words))
    assert len(cited) >= 7
    assert cited <= titles


def test_readme_and_changelog_stay_short() -> None:
    assert len(README.read_text().splitlines()) <= 250
    changelog = (ROOT / "CHANGELOG.md").read_text()
    for release in re.split(r"^## ", changelog, flags=re.M)[1:]:
        assert len(release.splitlines()) <= 40, release.splitlines()[0]
