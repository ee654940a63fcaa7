"""Machines: hosts that have booted this Debian's systemd, each on its own copy of the disk."""

import os
import shutil
import subprocess
from pathlib import Path

from scripts.rehearse.deployed import ROOT
from scripts.rehearse.hosts import Host
from scripts.rehearse.nodes import ledger_command
from scripts.rehearse.programs import Program, descendants, until

_BOOT = """
echo $$ > "$1/cgroup.procs"
exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup sh -e -c '
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir backup
test -z "$2" || mount --bind "$2" backup
mkdir -p opt/ledger
mount --bind "$3" opt/ledger
pivot_root . mnt
umount --lazy /mnt
mount --make-rshared /
exec env -i container=rehearsal PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' boot "$2" "$3" "$4"
"""
"""Joins a group of processes, and boots from a disk.

It mounts a folder that all machines share, and the work tree. The tree may lie in a home, which the
service may not enter."""

_MASKED = ("console-getty.service", "getty@tty1.service", "systemd-sysctl.service")
"""Services that would take over things of the real machine."""

_TREE = "/opt/ledger"
_COMMAND = " ".join(ledger_command()).replace(f"{ROOT}/", f"{_TREE}/")
_PROGRAM = f"""#!/bin/sh
PYTHONPATH={_TREE}/src:{_TREE} exec {_COMMAND} "$@"
"""
HOME = "/root/ledger"
"""The folder for the operator's commands. It has the configurations of ``deploy/``."""

_COMMAND_SECONDS = 300


class Machine:
    """A host with systemd, and nothing yet that an operator would start."""

    def __init__(self, host: Host, folder: Path, shared: Path | str = "") -> None:
        self.host, self.name = host, host.name
        self._folder = folder / host.name
        self._disk = self._folder / "disk"
        self._group = folder / "groups" / f"{folder.name}-{host.name}"
        arguments = map(str, (self._group, self._disk, shared, ROOT))
        command = ["sh", "-e", "-c", _BOOT, "boot", *arguments]
        self._systemd = Program(host, command, folder / f"{host.name}.log")

    def boot(self, names: str) -> None:
        """Boot, and wait until systemd has finished. ``names`` is the text of ``/etc/hosts``."""
        self._make_disk()
        self._prepare(names)
        self._group.mkdir()
        self._systemd.start()
        until(self._is_up, f"the machine {self.name}", 60)

    def _make_disk(self) -> None:
        """Copy this machine's disk into memory."""
        self._folder.mkdir(mode=0o755)
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self._folder))
        for name in ("upper", "work", "disk"):
            (self._folder / name).mkdir(mode=0o755)
        layers = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        _mount("-t", "overlay", "-o", layers, "overlay", str(self._disk))

    def _prepare(self, names: str) -> None:
        etc = self._disk / "etc"
        shutil.rmtree(etc / "systemd/system/multi-user.target.wants")
        for unit in _MASKED:
            (etc / "systemd/system" / unit).symlink_to("/dev/null")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (etc / "machine-id").write_text("")
        program = self._disk / "usr/local/bin/ledger"
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        shutil.copytree(ROOT / "deploy", self._disk / HOME[1:] / "deploy")

    def _is_up(self) -> bool:
        return self.run("systemctl is-system-running").stdout.strip() in ("running", "degraded")

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script as root, as a logged-in operator would."""
        first = next(descendants(self._systemd.pid), 0)
        script = f"cd {HOME}\n{script}"
        shell = ["nsenter", f"--target={first}", "--all", "--", "bash", "-l", "-e", "-c", script]
        return subprocess.run(
            shell,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def stop(self) -> None:
        """Kill the machine with all its processes."""
        self._systemd.kill()
        if self._group.exists():
            until(self._is_empty, f"the end of the machine {self.name}", 30)
            subprocess.run(["find", str(self._group), "-depth", "-type", "d", "-delete"])
        for folder in (self._disk, self._folder):
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)

    def _is_empty(self) -> bool:
        return "populated 0" in (self._group / "cgroup.events").read_text()


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)
