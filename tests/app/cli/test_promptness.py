"""Commands load only the packages that they need: no short command loads the web framework."""

import subprocess
import sys

HEAVY = ("fastapi", "uvicorn", "jinja2", "prometheus_client", "psycopg", "pydantic", "rich")


def loaded(code: str) -> set[str]:
    """The heavy packages that an interpreter has loaded after this code."""
    report = f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_usage_errors_load_no_heavy_package() -> None:
    for arguments in (["--help"], ["keys", "create"]):
        assert (
            loaded(
                "from ledger.app.cli.arguments import main\n"
                f"try: main({arguments})\nexcept SystemExit: print()"
            )
            == set()
        )


def test_no_short_command_loads_the_web_framework() -> None:
    found = loaded("from ledger.app.cli import dispatch, keys, load, views")
    assert found & {"fastapi", "uvicorn", "jinja2", "prometheus_client"} == set()


def test_the_supervisor_loads_no_heavy_package_beyond_the_database_and_settings() -> None:
    """The supervisor loads prometheus-client with its folder: else each worker counts alone."""
    assert loaded("import ledger.app.cli.dispatch, ledger.app.supervisor") == {
        "psycopg",
        "pydantic",
    }
