"""The code of all commands, loaded once: the process from which commands are forked imports this.

prometheus-client looks for its folder while being loaded. The folder here only serves that: a fork
counts in the folder that its own environment names by then.
"""

import atexit
import gc
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="ledger-test-metrics-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder

from ledger.cli import (  # noqa: E402, F401
    backup,
    dispatch,
    erasures,
    keys,
    line_parser,
    load,
    restore,
    seal,
    verify,
    views,
)
from ledger.service import supervisor, workers  # noqa: E402, F401

workers.make_ready()
gc.freeze()
