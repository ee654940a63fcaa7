"""This version beside an earlier one: do they answer the same?

    python scripts/bench_pair.py --old 57058cd --corpus-only     every answer, byte for byte

Both serve a copy of a ledger that the old version has written through its public door, in which
everything happens (`tale.py`), and are asked the same of it (`corpus.py`). Exit code 1: an answer
differs that is not wanted to (`wanted.py`).
"""

import argparse
import os
import signal
import sys

from comparing import print_comparison
from versions import version_of


def main() -> int:
    """Read the options, compare, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", required=True, metavar="COMMIT")
    parser.add_argument("--corpus-only", action="store_true", help="no rates")
    asked = parser.parse_args()
    os.environ.pop("LEDGER_DATABASE_URL", None)  # each side has a server of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    return 0 if print_comparison(version_of(asked.old)) else 1


if __name__ == "__main__":
    sys.exit(main())
