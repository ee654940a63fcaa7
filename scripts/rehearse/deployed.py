"""The configurations of ``deploy/``, with the addresses and folders of a rehearsal."""

from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def filled(file: str, /, **words: object) -> str:
    """A file of ``deploy/`` with its placeholders replaced. Raises KeyError without a value."""
    return Template((DEPLOY / file).read_text()).substitute(words)


def write(folder: Path, file: str, /, **words: object) -> Path:
    """Write a file of ``deploy/`` with its placeholders replaced, readable by all."""
    path = folder / Path(file).name
    path.write_text(filled(file, **words))
    path.chmod(0o644)
    return path
