"""``make clients``: clients made from the OpenAPI document, type-checked and run on a service.

Everything is below ``build/clients``: the document, the tools, their clients, and a ledger. First
the ledger's own TypeScript client is compiled and tested. With ``--short``, as in CI, that is all.
The whole run, each night, also lints the document, and runs the commands of
``docs/integrating.md``.
"""

import argparse
import json
import os
import shutil
import sys
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path

from scripts.clients import openapi_generator, own
from scripts.clients.shared import BUILD, DOCUMENT, GENERATED, HERE, TYPESCRIPT, run, service, tool

WHOLE = ("fetch", "hey", "orval", "zod")
"""The clients in TypeScript, by file name."""
OPENAPI_GENERATOR = (openapi_generator.make_python_client, openapi_generator.make_typescript_client)


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
        make_typescript_clients(WHOLE)
        programs = [TYPESCRIPT / f"made/{client}.js" for client in WHOLE]
        programs += [make_python_client(), *(make() for make in OPENAPI_GENERATOR)]
        for number, program in enumerate(programs, 1):
            language = "node" if program.suffix == ".js" else BUILD / "venv/bin/python"
            run(language, program, f"LIN-26-{number:06d}", env=environment)
            print(f"{program.name}: reported, read and managed")
        lint()
        own.follow_the_page(environment)
        print("docs/integrating.md: its section about TypeScript works in an empty folder")
    print("Every client works.")
    return 0


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
    """Make openapi-python-client's client, check all types; return the program that uses it."""
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
    program = HERE / "python/openapi_python_client.py"
    run(tools / "mypy", "--strict", made, program, env=environment, cwd=BUILD)
    return program


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
    if "zod" in clients:
        tool("openapi-zod-client", DOCUMENT, "-o", GENERATED / "zod.ts")
    shutil.rmtree(TYPESCRIPT / "made", ignore_errors=True)
    tool("tsc")


def lint() -> None:
    """Lint the document; a warning is an error."""
    rules = TYPESCRIPT / ".spectral.yaml"
    rules.write_text('extends: ["spectral:oas"]\n')
    tool("redocly", "lint", "--extends", "recommended", "--max-problems", 50, DOCUMENT, silent=True)
    tool("spectral", "lint", "--fail-severity", "hint", "--ruleset", rules, DOCUMENT)


if __name__ == "__main__":
    sys.exit(main())
