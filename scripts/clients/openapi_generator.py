"""The clients of openapi-generator, in Python and in TypeScript. It is a Java program."""

import json
import os
import shutil
from pathlib import Path

from scripts.clients.shared import BUILD, DOCUMENT, HERE, TYPESCRIPT, run, tool

PACKAGE = "ledger_openapi"
FOLDER = TYPESCRIPT / "openapi-generator"

# The tool's own modules fail the check of indexes that the other clients pass.
SETTINGS = {
    "extends": "../tsconfig.json",
    "compilerOptions": {"noUncheckedIndexedAccess": False, "outDir": "made"},
    "include": ["*.ts", "generated"],
}


def make_python_client() -> Path:
    """Make the client in Python, check the types of the program that uses it; return the program.

    The client's own types are not strict, so only its use is checked.
    """
    shutil.rmtree(BUILD / "python" / PACKAGE, ignore_errors=True)
    generate("python", BUILD / "python", "--package-name", PACKAGE)
    program = HERE / "python/openapi_generator.py"
    environment = os.environ | {"MYPYPATH": str(BUILD / "python"), "PYTHONPATH": ""}
    strict = ("--strict", "--implicit-reexport", "--follow-imports=silent")
    run(BUILD / "venv/bin/mypy", *strict, program, env=environment, cwd=BUILD)
    return program


def make_typescript_client() -> Path:
    """Make the client in TypeScript, check all types, and compile; return the program."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name in ("told.ts", "openapi-generator.ts"):
        shutil.copy(HERE / "typescript" / name, FOLDER)
    (FOLDER / "tsconfig.json").write_text(json.dumps(SETTINGS))
    generate("typescript-fetch", FOLDER / "generated/openapi-generator")
    tool("tsc", "--project", FOLDER)
    return FOLDER / "made/openapi-generator.js"


def generate(language: str, output: Path, *options: str) -> None:
    """Run the generator on the document."""
    program = BUILD / "venv/bin/openapi-generator-cli"
    run(program, "generate", "-g", language, "-i", DOCUMENT, "-o", output, *options)
