"""Origins and hosts in settings."""

import ipaddress
import re

ORIGIN = re.compile(
    r"https?://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[1-9]\d{0,4}))?"
)
"""An origin as browsers send it: in lower case, international names as ``xn--…``."""

_USUAL_PORTS = {"http": "80", "https": "443"}


def is_origin(text: str) -> bool:
    """True if a text is an origin without the scheme's default port."""
    found = ORIGIN.fullmatch(text)
    if found is None:
        return False
    scheme, port = text.partition(":")[0], found["port"]
    return port is None or (port != _USUAL_PORTS[scheme] and int(port) <= 65_535)


def is_guarded(scheme: str, host: str) -> bool:
    """True if nobody on the way can alter the response: it is https, or from this machine."""
    return scheme == "https" or (scheme == "http" and is_this_machine(host))


def is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
