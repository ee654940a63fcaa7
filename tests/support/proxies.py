"""Requests that a client sends to a proxy in front of the service, byte for byte."""

import socket

HOST = "ledger.example"


def disguises(prefix: str = "") -> tuple[str, ...]:
    """Targets that the service reads as the path of its metrics."""
    return (
        f"{prefix}/metrics",
        f"{prefix}/metrics?a=b",
        f"{prefix}/metrics#a",
        f"{prefix}/%6detrics",
        f"{prefix}/%6D%65%74%72%69%63%73",
        f"http://{HOST}{prefix}/metrics",
        f"http://other.example{prefix}/%6detrics",
    )


def status_of(host: str, port: int, target: str, method: str = "GET") -> int:
    """The status of the answer to a request for a target, which is sent as it is."""
    with socket.create_connection((host, port), timeout=20) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])
