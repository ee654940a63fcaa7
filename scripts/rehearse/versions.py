"""The version before this one: a work tree of the commit, run by this environment's packages."""

import subprocess
from pathlib import Path

from scripts.rehearse.deployed import ROOT

_MIGRATIONS = ":(glob)src/ledger/**/migrations/*.sql"
"""The migrations, wherever the version keeps them: a migration that moves is not a new one."""


def version_before(commit: str | None, folder: Path) -> Path:
    """A work tree of a commit, below the folder.

    Unless given, the commit is the newest one without the newest migration. A commit that only
    edits a migration before its release is no version: its ledgers cannot be upgraded. Raises
    CalledProcessError.
    """
    if commit is None:
        added = _git("log", "-1", "-M", "--diff-filter=A", "--format=%H", "--", _MIGRATIONS)
        commit = f"{added}^"
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
