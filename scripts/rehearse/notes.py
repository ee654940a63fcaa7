"""Checks that no two checkpoints that the nodes published contradict each other."""

import importlib.util
import threading
from types import ModuleType
from typing import NamedTuple

from scripts.rehearse.deployed import ROOT
from scripts.rehearse.nodes import Node, fetch

_EVERY_SECONDS = 0.5


class Note(NamedTuple):
    """A checkpoint as a node published it."""

    origin: str
    size: int
    root: str
    text: str


class Notes:
    """A thread that reads the checkpoint of each node twice a second, and stores every one."""

    def __init__(self, nodes: list[Node], token: str) -> None:
        self._nodes, self._token = nodes, token
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.collected: set[Note] = set()
        self._proven: set[Note] = set()
        """The notes from which a newer one was proven, which is proven itself the next time."""

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(30)

    def contradictions(self) -> list[str]:
        """The notes that contradict each other, and those that the present log does not continue.

        A proof of consistency compares each note of the present origin with the newest one.
        """
        found = []
        roots: dict[tuple[str, int], str] = {}
        for note in sorted(self.collected):
            first = roots.setdefault((note.origin, note.size), note.root)
            if first != note.root:
                found.append(f"{note.origin}: two roots of size {note.size}")
        return [*found, *self._unproven()]

    def _unproven(self) -> list[str]:
        verifier = _verifier()
        status, newest = self._ask("/v1/log/checkpoint")
        _, keys = self._ask("/v1/log/key")
        if status != 200:
            return []
        key, last = keys.splitlines()[0], _opened(newest)
        found = []
        for note in sorted(self.collected - self._proven):
            if note.origin != last.origin or note.size in (0, last.size):
                continue
            path = f"/v1/log/proof/consistency?from={note.size}&to={last.size}"
            status, proof = self._ask(path)
            error_text = f"status {status}"
            try:
                if status == 200 and verifier.proves_consistency(key, note.text, newest, proof):
                    self._proven.add(note)
                    continue
            except ValueError as error:
                error_text = str(error)
            found.append(f"{note.origin}: no proof from {note.size} to {last.size}: {error_text}")
        return found

    def _ask(self, path: str) -> tuple[int, str]:
        for node in self._nodes:
            status, text = fetch(f"{node.address}{path}", 5.0, self._token)
            if status == 200:
                return status, text
        return 0, ""

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY_SECONDS):
            for node in self._nodes:
                url = f"{node.address}/v1/log/checkpoint"
                status, text = fetch(url, 1.0, self._token)
                if status == 200:
                    self.collected.add(_opened(text))


def _opened(text: str) -> Note:
    origin, size, root, *_ = text.split("\n")
    return Note(origin, int(size), root, text)


def _verifier() -> ModuleType:
    """The verifier of the documentation, which uses no code of the ledger."""
    spec = importlib.util.spec_from_file_location("verifier", ROOT / "docs/verifier.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
