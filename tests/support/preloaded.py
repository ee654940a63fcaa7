"""The code of all commands, loaded once: the process from which commands are forked imports this.

prometheus-client looks for its folder while being loaded. The folder here only serves that: a fork
counts in the folder that its own environment names by then.
"""

import atexit
import gc
import os
import shutil
import tempfile
from importlib import import_module
from pkgutil import iter_modules

from ledger.app import cli

_folder = tempfile.mkdtemp(prefix="ledger-test-metrics-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder

for _module in iter_modules(cli.__path__, "ledger.app.cli."):
    import_module(_module.name)

from ledger.app import supervisor, workers  # noqa: E402, F401

workers.make_ready()
gc.freeze()
