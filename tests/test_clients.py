"""The versions of the generators with which ``make clients`` makes and tries clients."""

import json
import re
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "scripts/clients"


def test_generators_are_pinned_exactly() -> None:
    versions = json.loads((CLIENTS / "package-all.json").read_text())["dependencies"].values()
    assert [v for v in versions if not re.fullmatch(r"\d+\.\d+\.\d+", v)] == []
    lines = (CLIENTS / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert [line for line in packages if not re.fullmatch(r"[a-z\d-]+==\d+(\.\d+)+", line)] == []


def test_the_page_for_integrators_installs_exact_versions() -> None:
    page = (CLIENTS.parents[1] / "docs/integrating.md").read_text()
    lines = re.findall(r"^\$ npm install (.*)", page, re.M)
    packages = [each for line in lines for each in line.split() if not each.startswith("./")]
    assert packages != []
    assert [each for each in packages if not re.fullmatch(r"@?[\w/-]+@\d+\.\d+\.\d+", each)] == []
