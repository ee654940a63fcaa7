"""The client is a package of its own: nothing of the service is in it, and it installs alone."""

import ast
import os
import subprocess
import sys
import tomllib
import venv
from importlib.util import find_spec
from pathlib import Path

import execution_ledger
import pytest

from scripts.python_client.modules import PACKAGE
from tests.support.documents import ROOT, fences

FOLDER = PACKAGE.parent
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]

EXTRAS = {
    "langchain": "langchain_core",
    "openai_agents": "agents",
    "pandas": "pandas",
    "prefect": "prefect",
}
"""The modules of the extras, and the library that each is for."""


def imported(path: Path) -> set[str]:
    """The modules that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_the_client_imports_its_two_dependencies_alone() -> None:
    modules = {
        path: imported(path)
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(PACKAGE / "cli")
    }
    assert len(modules) > 25
    allowed = {"execution_ledger", "httpx", "msgspec"} | set(sys.stdlib_module_names)
    packages = {path: {name.partition(".")[0] for name in modules[path]} for path in modules}
    others = {path.name: names - allowed for path, names in packages.items() if names - allowed}
    extras = {f"{name}.py": {library} for name, library in EXTRAS.items()}
    assistants = {"server.py": {"mcp"}}
    assert others == {"_verifier.py": {"cryptography"}} | extras | assistants
    own = {f"execution_ledger.{name}" for name in EXTRAS}
    assert [path.name for path, names in modules.items() if names & own] == []


def test_elk_imports_the_packages_of_its_extra_too() -> None:
    """``elk mcp`` loads the packages of another extra, as it begins."""
    files = set((PACKAGE / "cli").glob("*.py")) - {PACKAGE / "cli/assistants.py"}
    modules = set().union(*map(imported, files))
    found = {name.partition(".")[0] for name in modules}
    extra = {each.partition(">")[0] for each in PROJECT["optional-dependencies"]["cli"]}
    allowed = {"execution_ledger", "httpx", "msgspec"} | set(sys.stdlib_module_names)
    assert found - allowed == extra == {"click", "keyring", "rich"}


def test_the_package_says_its_version_and_its_types() -> None:
    assert execution_ledger.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (FOLDER / "CHANGELOG.md").read_text()
    assert (PACKAGE / "py.typed").exists()
    assert {each.partition(">")[0] for each in PROJECT["dependencies"]} == {"httpx", "msgspec"}
    assert all(hasattr(execution_ledger, name) for name in execution_ledger.__all__)


def test_the_service_leaves_the_client_out() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/ledger", "projections"]


@pytest.mark.soak
def test_the_programs_of_the_readme_and_of_the_page_have_strict_types(tmp_path: Path) -> None:
    examples = [f for f in fences(ROOT / "docs/integrating.md") if not f.is_sketch]
    examples += fences(FOLDER / "README.md")
    programs = [fence.text for fence in examples if fence.language == "python"]
    assert len(programs) >= 15
    for package, sign in (("prefect", "@flow"), ("duckdb", "import duckdb")):
        if find_spec(package) is None:  # its names are untyped where it is not installed
            programs = [program for program in programs if sign not in program]
    for number, program in enumerate(programs):
        received = "body, headers, secret, key = b'', dict[str, str](), '', ''\n"
        head = f"from pathlib import Path\n{received}" if "body" in program else ""
        (tmp_path / f"program_{number}.py").write_text(head + program)
    settings = ("--config-file", FOLDER / "pyproject.toml")  # strict
    mypy = (sys.executable, "-m", "mypy", *settings, "--cache-dir", tmp_path / "cache")
    environment = os.environ | {"MYPYPATH": str(FOLDER)}
    done = subprocess.run(
        [*mypy, *sorted(tmp_path.glob("*.py"))],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"Success: no issues found in {len(programs)} source files\n"


@pytest.mark.soak
def test_a_wheel_installs_into_a_blank_environment(tmp_path: Path) -> None:
    venv.create(tmp_path / "blank", with_pip=True)
    python = tmp_path / "blank/bin/python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, FOLDER], check=True)
    (wheel,) = tmp_path.glob("execution_ledger_client-*.whl")
    subprocess.run([*pip, "install", wheel], check=True)
    program = "import execution_ledger, sys; sys.exit('ledger' in sys.modules)"
    subprocess.run([python, "-I", "-c", program], check=True, cwd=tmp_path)
