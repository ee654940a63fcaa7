"""A loop beside the requests: a thread of its own, from ``start`` to ``stop``."""

import threading


class BackgroundLoop:
    """Starts and stops a thread that runs ``_serve``, which a subclass gives.

    ``_serve`` returns soon after ``_stopping`` is set.
    """

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"ledger-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once the work in hand is done."""
        self._stopping.set()
        self._interrupt()
        self._thread.join()

    def _serve(self) -> None:
        raise NotImplementedError

    def _interrupt(self) -> None:
        """Cut a wait short that does not watch ``_stopping``."""
