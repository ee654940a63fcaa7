"""Two versions of the service: this work tree, and that of an earlier commit.

The work tree of an earlier commit is below `build/old`, with its own environment. It is made once
and reused; `make clean` removes it.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "build" / "old"


@dataclass(frozen=True)
class Version:
    """One version: its name, its work tree, and the interpreter of its environment."""

    name: str
    folder: Path
    python: Path

    @property
    def ledger(self) -> tuple[str, ...]:
        """The version's `ledger` command."""
        return (str(self.python.with_name("ledger")),)


HERE = Version("new", ROOT, Path(sys.executable))


def version_of(commit: str) -> Version:
    """The version of a commit, made if it does not exist yet."""
    sha = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    folder = OLD / sha
    if not (folder / ".git").exists():
        _git("worktree", "prune")  # forget the work trees of removed folders
        _git("worktree", "add", "--detach", str(folder), sha)
    if not (folder / ".venv" / "ready").exists():
        print(f"An environment is made for {sha[:7]}.", file=sys.stderr, flush=True)
        subprocess.run(["make", "--silent", "setup"], cwd=folder, check=True, stdout=sys.stderr)
    return Version(sha, folder, folder / ".venv" / "bin" / "python")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {arguments[0]} says: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()
