"""``python -m ledger``."""

import sys

from ledger.cli.arguments import main

if __name__ == "__main__":
    sys.exit(main())
