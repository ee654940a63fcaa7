"""``make dist``: the files of a release in ``dist/``; ``docs/installing.md`` describes each.

The files come from the last commit, whatever else the work tree has, and carry the commit's time.
So everybody who makes them gets the same bytes. With ``--check``, as each night, they are made
twice and compared, and the page's commands are run in an empty folder.
"""

import argparse
import filecmp
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

from scripts.clients.shared import ROOT, run
from scripts.release.contents import check_contents
from scripts.release.sbom import write_npm_sbom, write_python_sbom
from scripts.release.trial import try_release

DIST = ROOT / "dist"
BUILD = ROOT / "build/dist"
TOOLS = BUILD / "tools/bin"
SOURCE = BUILD / "source"

PYTHON = {".": "application", "src/ledger_client": "library"}
"""The folders of the Python packages, and the kind of each package."""
NPM = "src/ledger_client_ts"


def main() -> int:
    """Make the release; return an exit code."""
    parser = argparse.ArgumentParser(prog="make dist", description=__doc__)
    parser.add_argument("--check", action="store_true", help="make it twice, and try it")
    is_check = parser.parse_args().check
    if shutil.which("npm") is None:
        print("make dist needs Node 20 with npm.")
        return 1
    os.umask(0o022)  # npm packs files with the modes that they have
    install_tools()
    make(DIST)
    check_contents(DIST, SOURCE)
    print(f"dist/ has a release of commit {git('rev-parse', '--short', 'HEAD')}.")
    if is_check:
        again = BUILD / "again"
        make(again)
        names = sorted(path.name for path in DIST.iterdir())
        same, *others = filecmp.cmpfiles(DIST, again, names, shallow=False)
        if same != names:
            raise SystemExit(f"made again, these are other files: {others}")
        print(f"Made again, its {len(names)} files have the same bytes.")
        try_release(DIST, BUILD)
    return 0


def git(*command: str) -> str:
    return run("git", *command, cwd=ROOT).strip()


def install_tools() -> None:
    """Install the tools, each in its exact version."""
    if not TOOLS.exists():
        venv.create(TOOLS.parent, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", TOOLS / "python", "install", "-q")
    run(*pip, "-r", Path(__file__).with_name("requirements.txt"))


def make(into: Path) -> None:
    """Empty a folder, and make all files of the release in it."""
    for folder in (into, SOURCE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    committed = subprocess.check_output(["git", "archive", "HEAD"], cwd=ROOT)
    with tarfile.open(fileobj=io.BytesIO(committed)) as archive:
        archive.extractall(SOURCE, filter="data")
    environment = os.environ | {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct")}
    shutil.copy(SOURCE / ".ci/constraints.txt", into / "constraints.txt")
    for folder in PYTHON:
        # Build the wheel from the sdist, with the tools that are installed here.
        build = (TOOLS / "python", "-m", "build", "--no-isolation", "--outdir", into)
        run(*build, SOURCE / folder, env=environment)
    for folder, kind in PYTHON.items():
        write_python_sbom(into, SOURCE / folder, kind, TOOLS, environment)
    package = SOURCE / NPM
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=package)
    run("npm", "pack", "--pack-destination", into, cwd=package)
    write_npm_sbom(into, package, TOOLS, environment)
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(into.iterdir())
    ]
    (into / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    sys.exit(main())
