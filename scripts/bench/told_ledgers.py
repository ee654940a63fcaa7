"""Ledgers with the tale, each written once by one version, and kept beside its work tree."""

import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import short_limits
import tale
import tale_webhooks
from product import serving
from versions import HERE, OLD, Version

from ledger.engine.postgres.embedded.place import find_place


@dataclass(frozen=True)
class Tale:
    """A ledger to which nothing is written any more, and the keys for its readers."""

    data_dir: Path
    keys: dict[str, str]


def tale_of(version: Version) -> Tale:
    """The tale as a version wrote it; told now if that version has not written this tale yet.

    To this work tree, whose code changes, it is told each time.
    """
    data_dir = OLD / f"tale-{version.name}"
    marker = data_dir / "tale.json"
    found = json.loads(marker.read_text()) if marker.exists() else {}
    if version is HERE or found.get("tale") != _digest():
        for folder in (find_place(data_dir).base, data_dir):
            shutil.rmtree(folder, ignore_errors=True)
        began = time.perf_counter()
        found = {"tale": _digest(), "keys": _told(data_dir, version)}
        marker.write_text(json.dumps(found))
        taken = time.perf_counter() - began
        print(f"The tale was told to {version.name[:7]} in {taken:.0f} s.", file=sys.stderr)
    return Tale(data_dir, found["keys"])


def _told(data_dir: Path, version: Version) -> dict[str, str]:
    data_dir.mkdir(parents=True)
    command = (str(version.python), "-P", short_limits.__file__)
    log = data_dir / "ledger.log"
    with serving(data_dir, "", 1, log, ledger=command, settings=tale.SETTINGS) as product:
        return tale.tell(product, version)


def _digest() -> str:
    """The digest of the modules that tell the tale."""
    files = (tale.__file__, tale_webhooks.__file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()
