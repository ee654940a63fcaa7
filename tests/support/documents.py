"""The pages of the documentation, and the commands and snippets that a reader can run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRACT = ROOT / "docs/contract"

SKETCH = "sketch"
"""The word behind a fence's language that says: an illustration, which no test runs."""


class Fence(NamedTuple):
    """A block between two lines of backticks."""

    language: str
    is_sketch: bool
    text: str


class Step(NamedTuple):
    """A command of a page, or one of its Python snippets, with the output that the page shows."""

    command: str
    output: str = ""


def pages() -> list[Path]:
    """README, the changelog and every page below ``docs``."""
    return [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    for words, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        language, *rest = words.split() or [""]
        assert rest in ([], [SKETCH]), f"{page.name}: a fence is called {words!r}"
        yield Fence(language, bool(rest), text)


def steps(page: Path) -> list[Step]:
    """The steps of a reader, in order: each command of a console, each Python snippet.

    A block that begins with its name, such as ``# receiver.py``, becomes a file.
    """
    found: list[Step] = []
    for fence in fences(page):
        if fence.is_sketch:
            continue
        named = re.match(r"# (\w+\.(?:py|toml))\n", fence.text)
        if named or fence.language == "python":
            receiver = f"cat > {named[1]}" if named else "python -"
            found.append(Step(f"{receiver} <<'END_OF_SNIPPET'\n{fence.text}END_OF_SNIPPET"))
        elif fence.language == "console":
            found += _commands(fence.text)
    return found


def _commands(text: str) -> list[Step]:
    """The commands of a console; lines that go on with a command are indented."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        else:
            found[-1][0 if line.startswith("    ") else 1].append(line)
    return [Step("\n".join(command), "\n".join(output)) for command, output in found]
