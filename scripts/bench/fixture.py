"""The ledger of a version as a fixture of the tests, and digests of its answers.

    python scripts/bench/fixture.py             the version of this work tree
    python scripts/bench/fixture.py e6d622b     the version of a commit

The version writes the tale (`tale.py`) through its public interface and answers the corpus
(`corpus.py`). Its database is dumped to `tests/fixtures/ledger-VERSION.dump`; VERSION is the
package's version, or the commit. The file `answers-VERSION.json` beside it has the master key, the
keys of the readers, the time of their requests, and for each chosen request a digest of the
compared parts of its answer.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

import tale
from compare_answers import hold_reads, served_tale
from corpus import Corpus, kind_of
from corpus_request import Answer, Request, digest_of, sending
from product import Product
from told_ledgers import tale_of
from versions import HERE, OLD, ROOT, Version, version_of

from ledger import __version__
from ledger.engine.postgres.embedded.place import find_place

FOLDER = ROOT / "tests" / "fixtures"


def dump(product: Product, target: Path) -> None:
    """Dump the database of a running service, with the strongest compression."""
    program = find_place(product.data_dir).programs / "bin" / "pg_dump"
    options = ("--format=custom", "--compress=9", "--no-owner", "--schema=ledger")
    subprocess.run([str(program), *options, f"--file={target}", product.database_url], check=True)


def digests(told: dict[Request, Answer]) -> Iterator[list[str]]:
    """The digests of answers that a test can ask for again: the last one to each kind of request.

    Streams are left out, since they never end, and so are refusals and requests with headers, whose
    answers tell nothing more of what is stored. Leaf and inclusion proof are checked by the
    verifier of docs/proof.md instead.
    """
    kinds = set()
    for request, answer in reversed(told.items()):
        is_plain = request == Request(request.role, request.path)
        is_proof = request.role == "admin" and request.path.startswith("/v1/log/")
        kind = _kind(request)
        if is_plain and answer.status < 400 and not is_proof and kind not in kinds:
            kinds.add(kind)
            yield [digest_of(request, answer), request.role, request.path]


def _kind(request: Request) -> tuple[object, ...]:
    """Requests of one reader with the same parameters are of one kind.

    An administrator's reads of each line and run, now and in the past, are of kinds of their own.
    """
    path, _, query = request.path.partition("?")
    parameters = tuple(name for name, _ in parse_qsl(query))
    is_own = path.startswith(("/v1/execution/", "/v1/runs/")) and parameters in ((), ("as_of",))
    if request.role != "admin" or not is_own:
        path = kind_of(path)
    return request.role, path, parameters


def make(version: Version, name: str) -> list[Path]:
    """Make both files of a version."""
    told = tale_of(version)
    files = [FOLDER / f"ledger-{name}.dump", FOLDER / f"answers-{name}.json"]
    with tempfile.TemporaryDirectory(prefix="fixture-", dir=OLD) as folder:
        Path(folder).chmod(0o755)
        with (
            served_tale(told, version, Path(folder)) as product,
            sending(product.port, told.keys) as send,
        ):
            dump(product, files[0])
            hold_reads(product)
            corpus = Corpus(send)
            corpus.ask()
    about = {
        "master_key": tale.MASTER_KEY,
        "asked_at": datetime.now(UTC).isoformat(),
        "keys": told.keys,
    }
    head = json.dumps(about, indent=1)[:-2]
    lines = ",\n".join(json.dumps(line, ensure_ascii=False) for line in digests(corpus.told))
    files[1].write_text(f'{head},\n "answers": [\n{lines}\n]}}\n')
    return files


def main() -> int:
    """Read the commit, make the files, print their sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", nargs="?")
    commit = parser.parse_args().commit
    os.environ.pop("LEDGER_DATABASE_URL", None)  # the version has a server of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    version = version_of(commit) if commit else HERE
    for file in make(version, commit or __version__):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1024:,.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
