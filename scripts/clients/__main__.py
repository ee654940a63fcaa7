"""``make clients``: clients made from the OpenAPI document, type-checked and run against a service.

Everything stands below ``build/clients``: the document, the tools, what they make, a ledger. With
``--short`` only openapi-typescript runs, as in CI, which also tests the ledger's own client of the
same document. The whole run, each night, also lints the document, and types the commands of
``docs/integrating.md``.
"""

import argparse
import json
import os
import re
import shutil
import sys
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path

from scripts.clients import openapi_generator
from scripts.clients.shared import (
    BLANK,
    BUILD,
    DOCUMENT,
    GENERATED,
    HERE,
    PAGE,
    TYPESCRIPT,
    run,
    service,
    tool,
)

SHORT = ("fetch",)
WHOLE = ("fetch", "hey", "orval", "zod")
"""The clients in TypeScript, by the names of their files."""
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
    install(is_short)
    clients = SHORT if is_short else WHOLE
    with service() as environment:
        write_document(environment["LEDGER"])
        make_typescript_clients(clients)
        programs = [TYPESCRIPT / f"made/{client}.js" for client in clients]
        if not is_short:
            programs += [make_python_client(), *(make() for make in OPENAPI_GENERATOR)]
        for number, program in enumerate(programs, 1):
            language = "node" if program.suffix == ".js" else BUILD / "venv/bin/python"
            run(language, program, f"LIN-26-{number:06d}", env=environment)
            print(f"{program.name}: reported, read and managed")
        if not is_short:
            lint()
            follow_the_page(environment)
    print("Every client works.")
    return 0


def follow_the_page(environment: dict[str, str]) -> None:
    """Type the page's commands in an empty folder, about a line that is begun as on the page."""
    data = {
        "organization_id": "ORG-26-000001",
        "workspace_id": "WS-26-000001",
        "product_line": "agent_gateway",
        "execution_model": "agent_runtime",
    }
    fact = {"specversion": "1.0", "id": "begins", "source": "/jobs", "subject": "LIN-26-000050"}
    fact |= {"type": "service_line.activated", "data": data}
    asked = urllib.request.Request(
        f"{environment['LEDGER']}/v1/facts",
        json.dumps(fact).encode(),
        {"Authorization": f"Bearer {environment['TOKEN']}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(asked).close()
    _, _, section = PAGE.read_text().partition("## TypeScript")
    install, program, use = re.findall(r"^```.*?\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[:3]
    shutil.rmtree(BLANK, ignore_errors=True)
    BLANK.mkdir()
    (BLANK / "report.ts").write_text(program)
    commands = re.findall(r"^\$ (.*)", install + use, re.MULTILINE)
    named = {"ELK_URL": environment["LEDGER"], "ELK_TOKEN": environment["TOKEN"]}
    quiet = {"NPM_CONFIG_PACKAGE_LOCK": "false", "NPM_CONFIG_AUDIT": "false"}
    script = "\n".join(["set -e", *commands])
    printed = run("sh", "-c", script, cwd=BLANK, env=environment | named | quiet)
    assert printed.endswith("\nrunning\n"), printed
    print("docs/integrating.md: its program in TypeScript works in an empty folder")


def write_document(address: str) -> None:
    """Write the service's document into a file."""
    with urllib.request.urlopen(f"{address}/openapi.json") as answer:
        document = json.load(answer)
    DOCUMENT.write_text(json.dumps(document, indent=1, ensure_ascii=False))


def install(is_short: bool) -> None:
    """Install the generators, each in its exact version."""
    python = BUILD / "venv/bin/python"
    if not is_short:
        if not python.exists():
            venv.create(BUILD / "venv", symlinks=True)
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile")
        run(*pip, "-r", HERE / "requirements.txt")
    wanted = (HERE / ("package.json" if is_short else "package-all.json")).read_text()
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
    """Make openapi-python-client's client, check its types and its use's; return the program."""
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
