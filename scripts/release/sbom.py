"""The software bills of materials (CycloneDX): the packages that an installation brings."""

import json
import shutil
import subprocess
import sys
import tomllib
import uuid
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.clients.shared import run

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
validator = JsonStrictValidator(SchemaVersion.from_version(sys.argv[1]))
found = validator.validate_str(sys.stdin.read())
sys.exit(found and str(found))
"""


def write_python_sbom(
    dist: Path, source: Path, kind: str, tools: Path, environment: dict[str, str]
) -> None:
    """The packages that are installed with a wheel, in the versions of ``constraints.txt``."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    blank = tools.parents[1] / "blank"
    shutil.rmtree(blank, ignore_errors=True)
    venv.create(blank, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", blank / "bin/python", "install", "-q")
    # install by name: for a file, the bill would list its path too
    found = ("--find-links", dist, "-c", dist / "constraints.txt", f"{name}=={version}")
    run(*pip, "--no-compile", *found)
    listing = ("environment", blank / "bin/python", "--pyproject", source / "pyproject.toml")
    options = ("--mc-type", kind, "--output-reproducible")
    text = run(tools / "cyclonedx-py", *listing, *options, env=environment)
    write(dist / f"{name}-{version}.cdx.json", json.loads(text), tools, environment)


def write_npm_sbom(dist: Path, source: Path, tools: Path, environment: dict[str, str]) -> None:
    package = json.loads((source / "package.json").read_text())
    text = run(
        *("npm", "sbom", "--sbom-format", "cyclonedx", "--sbom-type", "library", "--omit", "dev"),
        cwd=source,
    )
    bill = json.loads(text)
    bill["metadata"]["component"]["name"] = package["name"]  # npm's own value is the folder's name
    path = dist / f"{package['name']}-npm-{package['version']}.cdx.json"
    write(path, bill, tools, environment)


def write(path: Path, bill: dict[str, Any], tools: Path, environment: dict[str, str]) -> None:
    """Write a bill with the commit's time and a number that follows from its content."""
    time = datetime.fromtimestamp(int(environment["SOURCE_DATE_EPOCH"]), UTC)
    bill["metadata"]["timestamp"] = time.isoformat()
    bill.pop("serialNumber", None)
    content = json.dumps(bill, sort_keys=True)
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, path.name + content)}"
    text = json.dumps(bill, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    check = [tools / "python", "-c", VALIDATE, bill["specVersion"]]
    done = subprocess.run(check, input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{path.name} is not valid: {done.stderr}")
    path.write_text(text)
