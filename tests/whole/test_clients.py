"""The versions of the generators with which ``make clients`` makes and tries clients."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "scripts/clients"
WHOLE = json.loads((CLIENTS / "package-all.json").read_text())["dependencies"]


def test_generators_are_pinned_exactly() -> None:
    assert [v for v in WHOLE.values() if not re.fullmatch(r"\d+\.\d+\.\d+", v)] == []
    lines = (CLIENTS / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert [line for line in packages if not re.fullmatch(r"[a-z\d-]+==\d+(\.\d+)+", line)] == []


def test_ci_and_the_page_for_integrators_use_the_versions_of_the_whole_run() -> None:
    package = json.loads((ROOT / "src/ledger_client_ts/package.json").read_text())
    assert package["devDependencies"].items() <= WHOLE.items()
    page = (ROOT / "docs/integrating.md").read_text()
    named = re.findall(r"^\$ npm install .*@.*", page, re.M)
    pairs = [word.rsplit("@", 1) for word in " ".join(named).split() if "@" in word[1:]]
    pinned = {name: version for name, version in pairs if re.fullmatch(r"\d+\.\d+\.\d+", version)}
    assert len(pinned) == len(pairs) >= 4
    assert {name: pinned[name] for name in pinned.keys() & WHOLE.keys()}.items() <= WHOLE.items()
