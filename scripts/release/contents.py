"""The files in the packages: all that belong there, no others, and no name of this machine."""

import re
import socket
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from scripts.clients.shared import ROOT

OTHERS = {
    ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "package.json",
    "pyproject.toml",
}  # fmt: skip
"""Files that a package may have besides its code."""


def check_contents(dist: Path, source: Path) -> None:
    """Exit if a package lacks a file of the commit, has another file, or names this machine."""
    here = machine()
    for path in sorted(dist.iterdir()):
        files = packed(path)
        if len(files) > 1:
            code = {name for name in files if name not in OTHERS and ".dist-info/" not in name}
            if wrong := code ^ expected(path.name, source):
                raise SystemExit(f"{path.name} has too many files, or too few: {sorted(wrong)}")
            if not any(name.endswith("LICENSE") for name in files):
                raise SystemExit(f"{path.name} has no licence")
        for name, data in files.items():
            if found := here.search(data):
                raise SystemExit(f"{path.name} names this machine in {name}: {found[0]!r}")


def packed(path: Path) -> dict[str, bytes]:
    """The files in a package, or the file itself if it is no package."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    if path.suffix in (".gz", ".tgz"):
        with tarfile.open(path) as archive:
            members = [(each, archive.extractfile(each)) for each in archive if each.isfile()]
            return {each.name.partition("/")[2]: file.read() for each, file in members if file}
    return {path.name: path.read_bytes()}


def expected(name: str, source: Path) -> set[str]:
    """The code that belongs into a package."""
    if name.endswith(".tgz"):
        root = source / "src/ledger_client_ts/src"
        stems = [str(file.relative_to(root).with_suffix("")) for file in root.rglob("*.ts")]
        return {f"dist/{stem}{suffix}" for stem in stems for suffix in (".js", ".d.ts")}
    root, folders = source, ["src/ledger", "projections"]
    if "_client" in name:
        root, folders = source / "src/ledger_client", ["execution_ledger"]
    files = [each for folder in folders for each in (root / folder).rglob("*") if each.is_file()]
    names = {str(file.relative_to(root)) for file in files}
    return {each.removeprefix("src/") for each in names} if name.endswith(".whl") else names


@cache
def machine() -> re.Pattern[bytes]:
    """A pattern of names that identify this machine: its host name, and our folder."""
    words = (str(ROOT), socket.gethostname())
    return re.compile(rb"(?<!\w)(" + "|".join(map(re.escape, words)).encode() + rb")(?!\w)")
