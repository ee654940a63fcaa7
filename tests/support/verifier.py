"""The verifier of ``docs/proof.md``, as an outsider has it: one file, and nothing of ours."""

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from tests.support.documents import ROOT

PATH = ROOT / "docs/verifier.py"


def _load() -> Any:
    spec = spec_from_file_location("verifier", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verifier = _load()
