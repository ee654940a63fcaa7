"""The versions of the generators with which ``make clients`` makes and tries clients."""

import json
import re
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "scripts/clients"


def test_generators_are_pinned_exactly() -> None:
    for name in ("package.json", "package-all.json"):
        versions = json.loads((CLIENTS / name).read_text())["dependencies"].values()
        assert [v for v in versions if not re.fullmatch(r"\d+\.\d+\.\d+", v)] == []
    lines = (CLIENTS / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert [line for line in packages if not re.fullmatch(r"[a-z\d-]+==\d+(\.\d+)+", line)] == []


def test_ci_uses_the_versions_of_the_whole_run() -> None:
    short, whole = (
        json.loads((CLIENTS / name).read_text())["dependencies"]
        for name in ("package.json", "package-all.json")
    )
    assert short.items() <= whole.items()


def test_the_page_for_integrators_installs_the_versions_of_the_whole_run() -> None:
    page = (CLIENTS.parents[1] / "docs/integrating.md").read_text()
    (named,) = re.findall(r"^\$ npm install (.*)", page, re.M)
    whole = json.loads((CLIENTS / "package-all.json").read_text())["dependencies"]
    pairs = [package.rsplit("@", 1) for package in named.split()]
    assert [[name, version] for name, version in pairs if whole.get(name) != version] == []
