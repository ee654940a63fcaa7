"""The command `ledger` of the version whose interpreter runs this, with shorter limits.

    OLD/.venv/bin/python -P scripts/bench/short_limits.py serve …

A tale (`tale.py`) has more refusals than a credential's daily limit, which is 10,000. So many
events would make a ledger of 10 MB, and the event that counts the omitted refusals follows a minute
later. Here the limit is 20, and the event follows within a second. Nothing else of the version is
changed: its writes are the usual ones.
"""

import contextlib
import importlib
import os
import sys
import tempfile
from datetime import timedelta
from importlib.metadata import entry_points

_HOUSEKEEPER = (
    "ledger.application.housekeeper",
    "ledger.application.loops",
    "ledger.engine.writer.housekeeper",
)

SHORTER: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("DAILY", 20, ("ledger.domain.refusals", "ledger.engine.values.refusals")),
    ("_TELL_AFTER", timedelta(seconds=0.2), _HOUSEKEEPER),
    ("_EVERY_SECONDS", 0.5, _HOUSEKEEPER),
)
"""Constant, value, and the modules that define it in any version: a move adds a module."""


def shorten(name: str, value: object, modules: tuple[str, ...]) -> None:
    """Give a constant another value, before any code of the version runs."""
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(module)
            if hasattr(found, name):
                setattr(found, name, value)
                return
    raise SystemExit(f"No module has {name}: add the module that defines it.")


def main() -> int:
    """Shorten the limits, then run the command."""
    with tempfile.TemporaryDirectory() as folder:
        # A module that counts is loaded here before the service has made the folder of its counts.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        for constant in SHORTER:
            shorten(*constant)
        # By its entry point, since its place in the code differs from version to version.
        (command,) = entry_points(group="console_scripts", name="ledger")
        code: int = command.load()()
        return code


if __name__ == "__main__":
    sys.exit(main())
