"""The README's verifier, as an outsider has it: its code, and nothing of ours."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_README = (Path(__file__).parents[2] / "README.md").read_text()


def _load() -> Any:
    section = _README.split("\n## Proof\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], "README.md", "exec"), names)
    return SimpleNamespace(
        **{name: names[name] for name in ("opened", "root_with", "is_beginning")}
    )


verifier = _load()
