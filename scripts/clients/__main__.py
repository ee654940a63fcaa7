"""``make clients``: clients made from the OpenAPI document, type-checked and run against a service.

Everything stands below ``build/clients``: the document, the tools, what they make, a ledger. First
the ledger's own TypeScript client is compiled and tested; with ``--short``, as in CI, nothing else.
The whole run, each night, also lints the document, and types the commands of
``docs/integrating.md``.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.clients import own

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build/clients"
DOCUMENT = BUILD / "openapi.json"
TYPESCRIPT = BUILD / "typescript"
GENERATED = TYPESCRIPT / "generated"

PERMISSIONS = (
    *("read", "write", "service_lines:manage", "webhooks:manage", "watches:manage", "keys:manage"),
    *("audit:read", "runs:erase", "statements:issue"),
)
WHOLE = ("fetch", "hey", "orval")
"""The clients in TypeScript, by the names of their files."""


def main() -> int:
    """Make, check and run the clients; return an exit code."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    is_short = parser.parse_args().short
    if shutil.which("npm") is None or shutil.which("node") is None:
        print("make clients needs Node 20 with npm.")
        return 0 if is_short else 1
    BUILD.mkdir(parents=True, exist_ok=True)
    own.prepare()
    if not is_short:
        install()
    with service() as environment:
        own.test(environment, is_short=is_short)
        print("execution-ledger-client: its tests pass")
        if is_short:
            return 0
        write_document(environment["LEDGER"])
        python = make_python_client()
        make_typescript_clients(WHOLE)
        for number, client in enumerate([*WHOLE, "python"], 1):
            line = f"LIN-26-{number:06d}"
            script: Sequence[object] = (
                (python, HERE / "python/report.py", line)
                if client == "python"
                else ("node", TYPESCRIPT / f"made/{client}.js", line)
            )
            run(*script, env=environment)
            print(f"{client}: reported, read and managed")
        lint()
        own.follow_the_page(environment)
        print("docs/integrating.md: its section about TypeScript works in an empty folder")
    print("Every client works.")
    return 0


def run(*command: object, **options: object) -> str:
    """Run a command to its end, and return its output, which is shown if the command fails."""
    words = [str(word) for word in command]
    done = subprocess.run(  # type: ignore[call-overload]
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        print(done.stdout)
        raise SystemExit(f"failed: {' '.join(words)}")
    return str(done.stdout)


def write_document(address: str) -> None:
    """Write the service's document into a file."""
    with urllib.request.urlopen(f"{address}/openapi.json") as answer:
        document = json.load(answer)
    DOCUMENT.write_text(json.dumps(document, indent=1, ensure_ascii=False))


def install() -> None:
    """Install the generators, each in its exact version."""
    python = BUILD / "venv/bin/python"
    if not python.exists():
        venv.create(BUILD / "venv", symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile")
    run(*pip, "-r", HERE / "requirements.txt")
    wanted = (HERE / "package-all.json").read_text()
    TYPESCRIPT.mkdir(exist_ok=True)
    package = TYPESCRIPT / "package.json"
    if package.exists() and package.read_text() == wanted:
        return
    package.unlink(missing_ok=True)
    (TYPESCRIPT / ".package.json").write_text(wanted)
    shutil.copy(TYPESCRIPT / ".package.json", package)
    try:
        run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=TYPESCRIPT)
    except BaseException:
        package.unlink()
        raise


def make_python_client() -> Path:
    """Make the client in Python, and check its types and those of its use; return its Python."""
    tools = BUILD / "venv/bin"
    made = BUILD / "python/ledger_client"
    made.parent.mkdir(exist_ok=True)
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    run(
        *(tools / "openapi-python-client", "generate", "--path", DOCUMENT, "--overwrite"),
        *("--output-path", made, "--meta", "none", "--fail-on-warning"),
        env=os.environ | path,
    )
    environment = os.environ | {"MYPYPATH": str(made.parent), "PYTHONPATH": ""}
    run(tools / "mypy", "--strict", made, HERE / "python/report.py", env=environment, cwd=BUILD)
    return tools / "python"


def make_typescript_clients(clients: Sequence[str]) -> None:
    """Make the clients in TypeScript, check their types and those of their use, and compile."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    for old in TYPESCRIPT.glob("*.ts"):
        old.unlink()
    shared = ["told.ts", *(["send.ts"] if "orval" in clients else [])]
    for name in [*shared, *(f"{client}.ts" for client in clients)]:
        shutil.copy(HERE / "typescript" / name, TYPESCRIPT)
    shutil.copy(HERE / "typescript/tsconfig.json", TYPESCRIPT)
    tool("openapi-typescript", DOCUMENT, "-o", GENERATED / "schema.ts")
    if "hey" in clients:
        tool("openapi-ts", "-i", DOCUMENT, "-o", GENERATED / "hey", "-c", "@hey-api/client-fetch")
    if "orval" in clients:
        shutil.copy(HERE / "typescript/orval.config.js", TYPESCRIPT)
        tool("orval", "--config", "orval.config.js")
    shutil.rmtree(TYPESCRIPT / "made", ignore_errors=True)
    tool("tsc")


def lint() -> None:
    """Lint the document; a warning is an error."""
    rules = TYPESCRIPT / ".spectral.yaml"
    rules.write_text('extends: ["spectral:oas"]\n')
    tool("redocly", "lint", "--extends", "recommended", "--max-problems", 50, DOCUMENT, silent=True)
    tool("spectral", "lint", "--fail-severity", "hint", "--ruleset", rules, DOCUMENT)


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
def service() -> Iterator[dict[str, str]]:
    """A service with an empty ledger; the environment says where, and has a token."""
    data = BUILD / "ledger"
    shutil.rmtree(data, ignore_errors=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    unset = {name for name in os.environ if name.startswith("LEDGER_")}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"LEDGER_DATA_DIR": str(data), "PYTHONPATH": path}
    environment["LEDGER_WEBHOOK_ALLOW_PRIVATE"] = "true"  # receivers are on this machine
    ledger = str(Path(sys.executable).with_name("ledger"))
    with (BUILD / "service.log").open("w") as log:
        process = subprocess.Popen(
            [ledger, "serve", "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(process, address)
            permissions = [word for name in PERMISSIONS for word in ("--permission", name)]
            keys = [ledger, "keys", "create", "--organization", "ORG-26-000001", *permissions]
            token = subprocess.check_output(keys, env=environment, text=True).strip()
            yield os.environ | {"LEDGER": address, "TOKEN": token, "PYTHONPATH": f"{BUILD}/python"}
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", address: str) -> None:
    """Wait until the service is ready."""
    pause = threading.Event()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            pause.wait(0.1)
    raise SystemExit(f"the service did not start: see {BUILD / 'service.log'}")


if __name__ == "__main__":
    sys.exit(main())
