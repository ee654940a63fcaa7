"""Commands load what they need and no more: a short one must not wait for the web framework."""

import subprocess
import sys

import pytest

HEAVY = ("fastapi", "uvicorn", "jinja2", "prometheus_client", "psycopg", "pydantic", "rich")


def loaded(code: str) -> set[str]:
    """Which of the heavy packages an interpreter has after this code."""
    told = f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + told], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_usage_errors_load_nothing() -> None:
    for arguments in (["--help"], ["keys", "create"]):
        assert (
            loaded(
                "from ledger.cli.arguments import main\n"
                f"try: main({arguments})\nexcept SystemExit: print()"
            )
            == set()
        )


@pytest.mark.parametrize("module", ["keys", "views", "load"])
def test_no_short_command_loads_the_web_framework(module: str) -> None:
    found = loaded(f"import ledger.cli.dispatch, ledger.cli.{module}")
    assert found & {"fastapi", "uvicorn", "jinja2", "prometheus_client"} == set()


def test_the_supervisor_loads_what_its_children_run_only_beside_the_database() -> None:
    """And prometheus-client once its folder is known: else each worker would count for itself."""
    assert loaded("import ledger.cli.dispatch, ledger.service.supervisor") == {
        "psycopg",
        "pydantic",
    }
