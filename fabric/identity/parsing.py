"""Letting `cryptography` parse bytes that came from anyone, without letting them choose what happens."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from fabric.errors import DecodeError, FabricError

T = TypeVar("T")

_SIGNATURE_HEADER = bytes.fromhex("300506032b6570 034100")
"""The algorithm Ed25519 without parameters (RFC 8410), and a BIT STRING of 64 bytes with no unused bits."""


def parse_der(parse: Callable[[bytes], T], der: bytes, limit: int) -> T:
    """Returns what `parse` makes of at most `limit` bytes.

    Passes our own errors on, and turns the parser's, which are many, into `DecodeError`. So it does with its
    warnings: what a parser merely frowns upon is odd enough, and must not reach a log either.
    """
    if len(der) > limit:
        raise DecodeError(f"{len(der)} bytes where at most {limit} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return parse(der)
    except FabricError:
        raise
    except Exception as error:
        raise DecodeError(f"the parser says {type(error).__name__}") from None


def require_plain_signature(der: bytes, signature: bytes) -> None:
    """Raises `DecodeError` unless the outer signature stands at the end in the one form that DER has for it.

    None of this is covered by the signature, and the parser overlooks a wrong count of unused bits.
    """
    if not der.endswith(_SIGNATURE_HEADER + signature):
        raise DecodeError("the signature is not written as an Ed25519 signature is")
