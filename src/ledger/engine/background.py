"""A background loop, which runs on its own thread from ``start`` to ``stop``."""

import threading
from collections.abc import Sequence


class BackgroundLoop:
    """Starts and stops a thread that runs ``_serve``, which a subclass implements.

    ``_serve`` returns soon after ``_stopping`` is set.
    """

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"ledger-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has finished its present work and ended."""
        self._stopping.set()
        self._interrupt()
        self._thread.join()

    def _serve(self) -> None:
        raise NotImplementedError

    def _interrupt(self) -> None:
        """Wake the thread from a wait that does not watch ``_stopping``."""


class Parts:
    """The parts of a process, started in their order and stopped in the opposite one."""

    parts: Sequence[BackgroundLoop]

    def start(self) -> None:
        for part in self.parts:
            part.start()

    def stop(self) -> None:
        for part in reversed(self.parts):
            part.stop()
