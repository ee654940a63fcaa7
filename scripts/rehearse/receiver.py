"""A receiver of webhooks whose answers a test sets."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.rehearse.hosts import Host

_PORT = 9999


class Receiver:
    """Answers each delivery with ``status``, and counts the deliveries by the status."""

    def __init__(self, host: Host) -> None:
        self.status = 200
        self.answered: list[int] = []
        receiver = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                receiver.answered.append(receiver.status)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Write no log."""

        self.url = f"http://{host.address}:{_PORT}/"
        server = ThreadingHTTPServer((host.address, _PORT), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
