"""All commands of ``elk``."""

from execution_ledger.cli import account, acting, assistants, following, reading, running, spooling
from execution_ledger.cli.grammar import Elk, is_printing_version

PARTS = (account, acting, assistants, following, reading, running, spooling)

elk = Elk(
    "elk",
    help="Ask and tell the execution ledger: what is running, what is stopped, and why.",
    epilog="\b\nBegin with:\n  $ elk login https://ledger.example.com\n  $ elk lines\n"
    "  $ elk COMMAND --help",
    params=[is_printing_version],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[command for part in PARTS for command in part.COMMANDS],
)
