"""The command `ledger` of whichever version runs this, with shorter limits than it is shipped with.

    OLD/.venv/bin/python -P scripts/bench/short_limits.py serve …

A tale (`tale.py`) has refusals beyond a credential's daily number, which is 10,000: as events they
would make a ledger of 10 MB, and the event that counts the others follows a minute later. Here the
number is 20 and the event follows within a second. Nothing else of the version is changed: all that
it writes, it writes as ever.
"""

import contextlib
import importlib
import sys
from datetime import timedelta
from importlib.metadata import entry_points

SHORTER: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("DAILY", 20, ("ledger.domain.refusals",)),
    ("_TELL_AFTER", timedelta(seconds=0.2), ("ledger.application.housekeeper",)),
    ("_EVERY_SECONDS", 0.5, ("ledger.application.housekeeper",)),
)
"""Name, value, and the modules that have it in one version or another: a move adds a module."""


def shorten(name: str, value: object, modules: tuple[str, ...]) -> None:
    """Give a constant another value, before anything of the version runs."""
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(module)
            if hasattr(found, name):
                setattr(found, name, value)
                return
    raise SystemExit(f"No module has {name}: name the one that does here.")


def main() -> int:
    """Shorten the limits, then run the command."""
    for constant in SHORTER:
        shorten(*constant)
    # The entry point: where it is in the code differs from version to version.
    (command,) = entry_points(group="console_scripts", name="ledger")
    code: int = command.load()()
    return code


if __name__ == "__main__":
    sys.exit(main())
