"""The commands of a page of the documentation, to be run as they are written."""

import re
from collections.abc import Iterator

from scripts.rehearse.deployed import ROOT

PASSWORD = "rehearsed"
"""Replaces an ellipsis in a page."""

_CONSOLE = re.compile(r"^```console[^\n]*\n(.*?)^```$", re.M | re.S)


_PACKAGES = re.compile(r"apt-get install --yes ([^\n`]+)")


def packages_named_in(page: str) -> list[str]:
    """The packages that a page tells readers to install."""
    named = _PACKAGES.findall((ROOT / "docs" / page).read_text())
    return sorted({package for packages in named for package in packages.split()})


def commands(page: str, heading: str, number: int = 0, **words: str) -> str:
    """The commands of a block below a heading as a script, with some of the page's words replaced.

    Each keyword is a name in ``WORDS``. Raises ValueError if there is no such block.
    """
    text = (ROOT / "docs" / page).read_text()
    _, found, section = text.partition(f"# {heading}\n")
    if not found:
        raise ValueError(f"{page} has no heading {heading!r}")
    blocks = _CONSOLE.findall(re.split(r"^## |^### ", section, maxsplit=1, flags=re.M)[0])
    if number >= len(blocks):
        raise ValueError(f"{page} has no block {number} below {heading!r}")
    script = "\n".join(_typed(blocks[number])).replace("…", PASSWORD)
    for name, word in words.items():
        if WORDS[name] not in script:
            raise ValueError(f"{page} does not say {WORDS[name]!r} below {heading!r}")
        script = script.replace(WORDS[name], word)
    return script


WORDS = {
    "instant": "2026-11-28 05:30:00+00",
    "endpoint": "WHK-26-000001",
    "old": "15",
    "new": "18",
}
"""The words that differ between rehearsals: times, ids with a year, installed versions."""


def _typed(block: str) -> Iterator[str]:
    """The lines that a reader types: those after a prompt, and their continuations."""
    end = ""
    for line in block.splitlines():
        if end:
            yield line
            end = "" if line == end else end
        elif line.startswith("$ "):
            yield line[2:]
            end = "END" if line.endswith("<<'END'") else ""
        elif line.startswith("    "):
            yield line
