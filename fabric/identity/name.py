"""Names of endpoints: `system.network`, e.g. `web-1.home`.

Both parts are DNS labels (RFC 1123 section 2.1) in lower case, so that a name can be a SAN dNSName and a host name
without any mapping. The system is one label; the network is one or several.
"""

from __future__ import annotations

import re

from fabric.errors import DecodeError

MAX_NETWORK_CHARS = 63
"""A network's name also stands in the X.520 organizationName of a subject, which ends at 64."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_name(text: str, network: str | None) -> str:
    """Returns the full name that `text` means; one without a network gets `network`.

    Raises `DecodeError` for anything that is no such name, and for a name in another network than a given one.
    """
    system, dot, own_network = text.partition(".")
    if not dot:
        if network is None:
            raise DecodeError(f'"{_shown(text)}" names no network: write it as system.network')
        own_network = network
    parse_system(system)
    parse_network(own_network)
    if network is not None and own_network != network:
        raise DecodeError(f'"{_shown(text)}" is not in the network "{network}"')
    return f"{system}.{own_network}"


def parse_system(text: str) -> str:
    """Returns `text`. Raises `DecodeError` unless it is one label."""
    if not _LABEL.fullmatch(text):
        raise DecodeError(f'"{_shown(text)}" is no name for a system: 1 to 63 of a-z, 0-9 and inner hyphens')
    return text


def parse_network(text: str) -> str:
    """Returns `text`. Raises `DecodeError` unless it is one or several labels, at most 63 characters in all.

    An all-numeric last label is refused: the whole could be taken for an IPv4 address.
    """
    labels = text.split(".")
    is_named = all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    if len(text) > MAX_NETWORK_CHARS or not is_named:
        raise DecodeError(f'"{_shown(text)}" is no name for a network: labels of a-z, 0-9 and inner hyphens')
    return text


def system_of(name: str) -> str:
    """Returns the part of a full name before its first dot."""
    return name.partition(".")[0]


def network_of(name: str) -> str:
    """Returns the part of a full name behind its first dot."""
    return name.partition(".")[2]


def _shown(text: str) -> str:
    """Returns `text` fit for a sentence: bounded, and without control characters."""
    return text[:80].encode("unicode_escape").decode()
