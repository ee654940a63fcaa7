"""``python -m ledger``."""

import sys

from ledger.app.cli.arguments import main

if __name__ == "__main__":
    sys.exit(main())
