"""TLS towards the service: version 1.3, under the authority's root and nothing else."""

from __future__ import annotations

import ssl


def context_under(authority: bytes) -> ssl.SSLContext:
    """Returns a client context that trusts exactly one root (DER), and wants the host named in the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    return context


def context_to_look() -> ssl.SSLContext:
    """Returns a client context that trusts nobody: for a handshake that only asks for the chain, and sends nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
