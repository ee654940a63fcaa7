"""``make run``: the service, demo data in an empty ledger, the page, and three commands to try.

The script ends with its parent, so a killed ``make`` leaves nothing behind.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

LEDGER = str(Path(sys.executable).with_name("ledger"))
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    """Run until interrupted; return the service's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="8000")
    port = parser.parse_args().port
    address = f"http://127.0.0.1:{port}"
    die_with_parent()
    command = [LEDGER, "serve", "--port", port, "--workers", "2"]
    public = f"{address}{os.environ.get('LEDGER_ROOT_PATH', '').rstrip('/')}"
    environment = {"LEDGER_PUBLIC_URL": public, "LEDGER_MCP": "true"} | os.environ
    service = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        # The terminal sends SIGINT to the whole group; pass SIGTERM on, and wait for the end.
        signal.signal(number, lambda *_: service.terminate())
    try:
        if wait_until_ready(service, address):
            tell(address)
        return service.wait()
    finally:
        if service.poll() is None:
            service.terminate()
            service.wait()


def wait_until_ready(service: "subprocess.Popen[bytes]", address: str) -> bool:
    """Return True once the service is ready; False if it ended, and has printed the reason."""
    pause = threading.Event()
    while service.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            pause.wait(0.1)
    return False


def tell(address: str) -> None:
    """Load the demo data, and print the commands to try."""
    demo = subprocess.run([LEDGER, "demo"], stdout=subprocess.PIPE, text=True, check=False)
    if demo.returncode != 0:
        return
    lines = demo.stdout.strip().splitlines()
    token = next(line.split()[-1] for line in lines if line.startswith("Token:"))
    # Below a path prefix (LEDGER_ROOT_PATH) the demo prints the page's address with it.
    page = next((line.split()[-1] for line in lines if "http://" in line), f"{address}/")
    print(f"""
{lines[0]}

  Page        {page}
  Token       {token}
  Assistants  {page}mcp

Open the page and paste the token, or try (Ctrl-C stops everything):

  curl -s -H 'Authorization: Bearer {token}' '{page}v1/execution/summary'
  curl -s -H 'Authorization: Bearer {token}' '{page}v1/execution?state=blocked'
  curl -s -H 'Authorization: Bearer {token}' '{page}v1/execution/LIN-26-091100/runs?limit=3'
""", flush=True)  # fmt: skip


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())
