"""A real nginx in front of a test's service, with the configuration of the documentation."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.documents import ROOT, fences
from tests.support.served import free_port
from tests.support.streaming import Address
from tests.support.views import until

PREFIX = "/ledger"
"""The prefix of the documentation's example."""

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None, reason="nginx is not installed here (Debian: the package nginx)"
)

_MAIN = """{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""


@contextmanager
def behind_nginx(folder: Path, service: Address, strips: bool) -> Iterator[str]:
    """An nginx before a service, which passes the prefix on or strips it; its own address."""
    port = free_port()
    site = _documented(service, port)
    if strips:
        site = _replaced(site, f"location {PREFIX} ", f"location {PREFIX}/ ")
        site = _replaced(site, "proxy_pass http://ledger;", "proxy_pass http://ledger/;")
    # The workers of an nginx that is started by root are another user's, who cannot enter here.
    user = "user root;" if os.getuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(_MAIN.format(user=user, folder=folder, site=site))
    with subprocess.Popen(
        ["nginx", "-p", folder, "-e", folder / "error.log", "-c", configuration]
    ) as nginx:
        try:
            until(lambda: _listens(port), "nginx, which should listen")
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()


def _documented(service: Address, port: int) -> str:
    """The site of the documentation, without TLS and on free ports."""
    (site,) = [f.text for f in fences(ROOT / "docs/operating.md") if f.language == "nginx"]
    site = _replaced(site, "127.0.0.1:8000", f"{service.host}:{service.port}")
    site = _replaced(site, "listen 443 ssl;", f"listen 127.0.0.1:{port};")
    return re.sub(r"\n *ssl_.*", "", site)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
