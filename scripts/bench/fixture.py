"""The ledger of an earlier version as a fixture of the tests, and a digest of each of its answers.

    python scripts/bench/fixture.py 57058cd

The version writes the tale (`tale.py`) through its public interface and answers the corpus
(`corpus.py`). Its database is dumped to `tests/fixtures/ledger-COMMIT.dump`. The file
`answers-COMMIT.json` beside it has the master key, the keys of the readers, the time of their
requests, and for each request a digest of the compared parts of its answer.
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

import tale
from compare_answers import served_tale
from corpus import Corpus
from corpus_request import Answer, Request, digest_of, sending
from product import Product
from told_ledgers import tale_of
from versions import OLD, ROOT, version_of
from wanted_differences import wanted

from ledger.postgres.embedded.place import find_place

FOLDER = ROOT / "tests" / "fixtures"
SHORT = 7  # digits of a commit


def dump(product: Product, target: Path) -> None:
    """Dump the database of a running service, with the strongest compression."""
    program = find_place(product.data_dir).programs / "bin" / "pg_dump"
    options = ("--format=custom", "--compress=9", "--no-owner", "--schema=ledger")
    subprocess.run([str(program), *options, f"--file={target}", product.database_url], check=True)


def digests(told: dict[Request, Answer]) -> Iterator[list[str]]:
    """The digests of the answers that a test can ask for again.

    Streams are left out, since they never end, and so are answers that are wanted to differ. Leaf
    and inclusion proof of each position are checked by the verifier of docs/proof.md instead.
    """
    for request, answer in told.items():
        is_proof = request.role == "admin" and request.path.startswith("/v1/log/")
        if not request.until and not is_proof and wanted(request, answer) is None:
            headers = [part for header in request.headers for part in header]
            about = [request.role, request.method, request.path, *headers]
            yield [digest_of(request, answer)[:16], *about]


def make(commit: str) -> list[Path]:
    """Make both files for a commit."""
    version = version_of(commit)
    told = tale_of(version)
    name = version.name[:SHORT]
    files = [FOLDER / f"ledger-{name}.dump", FOLDER / f"answers-{name}.json"]
    with tempfile.TemporaryDirectory(prefix="fixture-", dir=OLD) as folder:
        Path(folder).chmod(0o755)
        with (
            served_tale(told, version, Path(folder)) as product,
            sending(product.port, told.keys) as send,
        ):
            corpus = Corpus(send)
            corpus.ask()
            dump(product, files[0])
    about = {
        "commit": version.name,
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
    parser.add_argument("commit")
    asked = parser.parse_args()
    os.environ.pop("LEDGER_DATABASE_URL", None)  # the version has a server of its own
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    for file in make(asked.commit):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1024:,.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
