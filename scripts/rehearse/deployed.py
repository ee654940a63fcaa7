"""The configurations of ``deploy/``, filled in with the addresses and folders of a rehearsal."""

from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def filled(file: str, /, **words: object) -> str:
    """A file of ``deploy/`` with its words filled in. Raises KeyError if a word is missing."""
    return Template((DEPLOY / file).read_text()).substitute(words)


def write(folder: Path, file: str, /, **words: object) -> Path:
    """Write a file of ``deploy/`` into a folder with its words filled in, readable for all."""
    path = folder / Path(file).name
    path.write_text(filled(file, **words))
    path.chmod(0o644)
    return path
