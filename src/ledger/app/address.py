"""The address where the service listens, in a file of the data directory while it serves.

Other commands on the same data directory can then print it. Two services may share a data directory
(with a database elsewhere). The file is then the newest service's, and a service that ends leaves
another's file alone. A killed service leaves its file behind, so a reader checks that the service
still answers.
"""

import contextlib
import ipaddress
import json
import logging
import os
import re
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

_logger = logging.getLogger(__name__)

_FILE = "serving"

_WRITTEN = re.compile(r"(http://[^\s/?#@]+)\n([1-9][0-9]{0,9})\n")
"""The address, and the process that serves there."""

_ALIVE = {"status": "ok"}
"""The response of ``/healthz``."""


@contextlib.contextmanager
def keeping_address(data_dir: Path, address: str) -> Iterator[None]:
    """Store the address in the data directory while the block runs.

    A service whose data directory is not writable serves nevertheless.
    """
    path, text = data_dir / _FILE, f"{address}\n{os.getpid()}\n"
    draft = path.with_name(f"{_FILE}.{os.getpid()}")
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            draft.write_text(text, "utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("the file with this service's address cannot be written: %s", error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if path.read_text("utf-8") == text:
                path.unlink()


def stored_address(data_dir: Path) -> str | None:
    """The address of this data directory's service; None if the service does not run."""
    try:
        written = _WRITTEN.fullmatch((data_dir / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if written is None or not _is_running(int(written[2])):
        return None
    address = reachable(written[1])
    return address if address is not None and _answers(address) else None


def reachable(address: str) -> str | None:
    """The address at which this machine reaches the service: a wildcard becomes the loopback.

    Returns None if the text is no address.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or port is None:
        return None
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        if ip.is_unspecified:
            return f"http://127.0.0.1:{port}" if ip.version == 4 else f"http://[::1]:{port}"
    return address


def _is_running(process: int) -> bool:
    """True if the process that wrote the file is alive: another may have a killed one's port."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _answers(address: str) -> bool:
    answer = fetched(f"{address}/healthz", 2.0)
    try:
        return answer is not None and bool(json.loads(answer) == _ALIVE)
    except ValueError:
        return False


def fetched(url: str, seconds: float) -> bytes | None:
    """The beginning of a 200 response on this machine; None for any other outcome."""
    # The environment's proxy is not used: it would look for this machine elsewhere.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as reply:
            return bytes(reply.read(100)) if reply.status == 200 else None
    except (OSError, HTTPException):
        return None
