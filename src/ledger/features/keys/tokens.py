"""The text form of API keys: creation, check and hash."""

import hashlib
import secrets
import zlib

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN_PREFIX = "elk_"
"""The prefix of every API key, and of no other token."""
_PREFIX_LENGTH = len(TOKEN_PREFIX) + 6
_SECRET_LENGTH = 43
_CHECK_LENGTH = 6


def create_token() -> str:
    """A new API key: 256 random bits and a checksum, which reveals typing errors offline."""
    secret = _base62(int.from_bytes(secrets.token_bytes(32), "big"), _SECRET_LENGTH)
    return TOKEN_PREFIX + secret + _checksum(secret)


def is_well_formed(token: str) -> bool:
    """True if a token has the form of an API key, and a correct checksum."""
    body = token.removeprefix(TOKEN_PREFIX)
    return (
        token.startswith(TOKEN_PREFIX)
        and len(body) == _SECRET_LENGTH + _CHECK_LENGTH
        and body.isascii()
        and body.isalnum()
        and _checksum(body[:_SECRET_LENGTH]) == body[_SECRET_LENGTH:]
    )


def prefix_of(token: str) -> str:
    """The first characters of an API key, by which people tell keys apart.

    The rest has more than 220 random bits.
    """
    return token[:_PREFIX_LENGTH]


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
