"""``elk``: the command line for people, for a ledger that may be far away.

Needs the packages of the extra ``cli``: click, rich and keyring.
"""

import sys


def main() -> int:
    """Run the command of the process's arguments; return its exit code."""
    try:
        from execution_ledger.cli.commands import elk
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "keyring"):
            raise
        message = f"elk: {error.name} is missing: pip install 'execution-ledger-client[cli]'"
        print(message, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    code: int = elk.main(prog_name="elk")
    return code
