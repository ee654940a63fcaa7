"""The programs of the rehearsal, from Debian's packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ledger.engine.postgres.embedded.account import default_account
from ledger.engine.postgres.embedded.programs import find_programs

_PACKAGES = {
    "patroni": "patroni",
    "etcd": "etcd-server",
    "haproxy": "haproxy",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "faketime": "faketime",
    "ip": "iproute2",
}
"""Package by program. PostgreSQL and Python's client of etcd are found in other ways."""

_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/ledger.conf")
_ETCD_CLIENT = Path("/usr/lib/python3/dist-packages/etcd")


def install(further: Mapping[str, str] = MappingProxyType({})) -> None:
    """Install what is missing; ``further`` are packages by program. Exits if that is impossible."""
    if os.geteuid() != 0:
        sys.exit("The rehearsal installs packages and makes network namespaces: run it as root.")
    wanted = _PACKAGES | dict(further)
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    if not _ETCD_CLIENT.exists():
        missing.append("python3-etcd")
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        missing.append("postgresql")
        # Debian's package would create and start a cluster of its own.
        _NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        _NO_CLUSTER.write_text("create_main_cluster = false\n")
    if not missing:
        return
    bring_up_to_date(missing)


def bring_up_to_date(packages: Sequence[str]) -> None:
    """Install packages that are missing or old. Exits if that is impossible."""
    if shutil.which("apt-get") is None:
        sys.exit(f"Missing: {', '.join(packages)}. The rehearsal installs them on Debian only.")
    print(f"Installing {', '.join(packages)}.", flush=True)
    # In the single-user runlevel, packages do not start their services.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    quiet = ["-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
    keep = ["-o", "Dpkg::Options::=--force-confold"]
    for command in (["update", "-qq"], ["install", *quiet, *keep, *packages]):
        subprocess.run(
            ["apt-get", *command], env=environment, check=True, stdout=subprocess.DEVNULL
        )


def postgres_programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    folders = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max(folders, key=lambda path: int(path.parents[1].name)).parent


def newer_programs() -> Path:
    """The folder of the embedded PostgreSQL's programs, for users other than root."""
    return find_programs(default_account()) / "bin"
