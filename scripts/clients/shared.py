"""What the makers of clients share: their folders, their tools, and a service for the clients."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build/clients"
DOCUMENT = BUILD / "openapi.json"
TYPESCRIPT = BUILD / "typescript"
GENERATED = TYPESCRIPT / "generated"

OURS = Path(sys.executable).with_name("ledger")
CODE = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
PERMISSIONS = (
    *("read", "write", "service_lines:manage", "webhooks:manage", "watches:manage", "keys:manage"),
    *("audit:read", "runs:erase", "statements:issue"),
)


def run(*command: object, **options: object) -> str:
    """Run a command to its end and return its output. Prints the output if the command fails."""
    words = [str(word) for word in command]
    done = subprocess.run(  # type: ignore[call-overload]
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        print(done.stdout)
        raise SystemExit(f"failed: {' '.join(words)}")
    return str(done.stdout)


def tool(name: str, *arguments: object, silent: bool = False) -> None:
    """Run one of the tools of npm. With ``silent`` a warning of the tool is an error too."""
    command = [str(TYPESCRIPT / "node_modules/.bin" / name), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=TYPESCRIPT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or (silent and "warning was generated" in done.stdout.lower()):
        print(done.stdout)
        raise SystemExit(f"failed: {' '.join(command)}")


@contextmanager
def service(
    folder: Path = BUILD, ledger: Path = OURS, path: str = CODE
) -> Iterator[dict[str, str]]:
    """A service with an empty ledger. Yields an environment with its address and a token."""
    data = folder / "ledger"
    shutil.rmtree(data, ignore_errors=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    unset = {name for name in os.environ if name.startswith("LEDGER_")}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"LEDGER_DATA_DIR": str(data), "PYTHONPATH": path}
    environment["LEDGER_WEBHOOK_ALLOW_PRIVATE"] = "true"  # the receivers are on this machine
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(
            [ledger, "serve", "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(process, address, folder / "service.log")
            permissions = [word for name in PERMISSIONS for word in ("--permission", name)]
            keys = [ledger, "keys", "create", "--organization", "ORG-26-000001", *permissions]
            token = subprocess.check_output(keys, env=environment, text=True).strip()
            yield os.environ | {"LEDGER": address, "TOKEN": token, "PYTHONPATH": f"{BUILD}/python"}
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    pause = threading.Event()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            pause.wait(0.1)
    raise SystemExit(f"the service did not start: see {log}")
