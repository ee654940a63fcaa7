"""Data directories with a new ledger: copies of one that is made once for all test processes.

PostgreSQL's ``initdb`` and the schema cost a second of processor time, a copy in memory 0.05 s. The
copies have one master key, and no node: each start gives its directory a node of its own.
"""

import fcntl
import subprocess
from pathlib import Path

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from tests.support.embedded import folder_in_tmp, memory, served

MASTER_KEY = "0f" * 32

QUICK = {
    "fsync": "off", "full_page_writes": "off", "autovacuum": "off",
    "shared_buffers": "32MB",  # which each copy and each removal of a database searches
    "io_method": "sync", "scram_iterations": "1",  # a login costs the test's process 3 ms else
}  # fmt: skip
"""Settings of servers whose files need not outlive the machine."""


def made_once(shared: Path, master_key: str) -> Path:
    """The data directory to copy, in a folder that all test processes share. No server runs there.

    The first process makes the directory; the others wait meanwhile.
    """
    made = shared / "data"
    with (shared / "data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return made
        with folder_in_tmp(0o755, memory()) as folder:
            data_dir = folder / "data"
            with served(data_dir, purpose="tests", settings=QUICK) as postgres:
                key = data_dir / "master.key"
                key.touch(0o600)
                key.write_text(master_key)
                prepare_database(Settings(data_dir=data_dir), postgres.url)
            copy_of(data_dir, shared / "half")
        return (shared / "half").rename(made)


def copy_of(data_dir: Path, to: Path) -> Path:
    """Copy a data directory, with the owners and modes of its files."""
    subprocess.run(["cp", "-a", "--reflink=auto", data_dir, to], check=True)
    return to
