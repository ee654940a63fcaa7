"""The previous version: a work tree of its commit, run with this environment's packages."""

import subprocess
from pathlib import Path

from scripts.rehearse.deployed import ROOT

_MIGRATIONS = "src/ledger/engine/log/schema/migrations"


def version_before(commit: str | None, folder: Path) -> Path:
    """Make a work tree of a commit, below the folder.

    By default the commit is the newest one without the newest migration. Ledgers of commits before
    the present form of the first migration cannot be upgraded. Raises CalledProcessError.
    """
    if commit is None:
        first, *later = sorted((ROOT / _MIGRATIONS).iterdir())
        filters = ["--diff-filter=A"] if later else []
        newest = later[-1] if later else first
        commit = _git("log", "-1", *filters, "--format=%H", "--", str(newest))
        commit += "^" if later else ""
    tree = folder / "before"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
