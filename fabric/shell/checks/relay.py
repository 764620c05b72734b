"""The way to each relay that the service has named: one round trip over UDP, TCP and TLS where it serves that."""

from __future__ import annotations

import os
import socket
import ssl

import trio

from fabric.shell.checks.asking import ask, udp_socket
from fabric.shell.checks.discovery import total_s
from fabric.shell.checks.finding import Finding, Scalar, Verdict, ms
from fabric.shell.checks.network import NetworkView
from fabric.shell.checks.reach import connect_all, resolve
from fabric.wire.address import Address, Transport
from fabric.wire.relay import Refresh, Refreshed, decode_relay_message, encode_relay_message
from fabric.wire.rendezvous import RelayPlace

MAX_RELAYS = 8
"""What a grant may name."""


async def check_relays(network: NetworkView, context: ssl.SSLContext) -> Finding:
    """A relay carries a pair from the first second, and one that nothing else can."""
    places = list(dict.fromkeys(relay.place for relay in network.relays))[:MAX_RELAYS]
    if not places:
        return Finding(Verdict.UNKNOWN, "the service has named no relay yet; it does with the first introduction")
    rows: dict[tuple[RelayPlace, Transport], dict[str, Scalar]] = {}
    async with trio.open_nursery() as nursery:
        for place in places:
            if place.udp_port:
                nursery.start_soon(_note_udp, network, place, rows)
            if place.tls_port:
                nursery.start_soon(_note_tls, network, place, context, rows)
    in_order = [row for _, row in sorted(rows.items(), key=lambda item: (places.index(item[0][0]), item[0][1]))]
    return _judge(in_order)


def _judge(rows: list[dict[str, Scalar]]) -> Finding:
    good = [row for row in rows if row["rtt_ms"] is not None]
    texts = [
        f"{row['address']} by {row['transport']} "
        + (f"in {row['rtt_ms']} ms" if row["rtt_ms"] is not None else f"not ({row['why']})")
        for row in rows
    ]
    verdict = Verdict.OK if len(good) == len(rows) else Verdict.LIMITED if good else Verdict.FAILED
    return Finding(verdict, "; ".join(texts), {"relays": tuple(rows)})


async def _note_udp(
    network: NetworkView, place: RelayPlace, rows: dict[tuple[RelayPlace, Transport], dict[str, Scalar]]
) -> None:
    trips: list[float] = []

    async def note(ip: str) -> None:
        rtt_s = await ask_relay(Address(ip, place.udp_port))
        if rtt_s is not None:
            trips.append(rtt_s)

    async with trio.open_nursery() as nursery:
        for ip in await resolve(place.host):
            nursery.start_soon(note, ip)
    why = "" if trips else "no answer"
    rows[place, Transport.RELAY_UDP] = _row(network, place, Transport.RELAY_UDP, min(trips, default=None), why)


async def _note_tls(
    network: NetworkView,
    place: RelayPlace,
    context: ssl.SSLContext,
    rows: dict[tuple[RelayPlace, Transport], dict[str, Scalar]],
) -> None:
    outcomes = await connect_all([(place.host, place.tls_port)], context, network.outlet)
    reached = [each for several in outcomes.values() for each in several]
    good = [each for each in reached if each.tls_s is not None]
    why = "" if good else next((each.why for each in reached), "the name can't be looked up")
    time_s = min(map(total_s, good), default=None)
    rows[place, Transport.RELAY_TLS] = _row(network, place, Transport.RELAY_TLS, time_s, why)


async def ask_relay(relay: Address) -> float | None:
    """Returns the round trip in seconds. The question is after a channel that this socket can't have: the relay
    answers that it has none, and keeps nothing."""
    question = encode_relay_message(Refresh((int.from_bytes(os.urandom(4)) | 1,)))

    def read(payload: bytes, _source: Address) -> Refreshed | None:
        message = decode_relay_message(payload)
        return message if isinstance(message, Refreshed) else None

    try:
        with udp_socket(socket.AF_INET6 if relay.is_ipv6 else socket.AF_INET) as udp:
            answered = await ask(udp, [relay], question, read)
    except OSError:
        return None
    return None if answered is None else answered[2]


def _row(
    network: NetworkView, place: RelayPlace, transport: Transport, rtt_s: float | None, why: str
) -> dict[str, Scalar]:
    views = [relay for relay in network.relays if relay.place == place and relay.transport is transport]
    port = place.udp_port if transport is Transport.RELAY_UDP else place.tls_port
    return {
        "address": f"[{place.host}]:{port}" if ":" in place.host else f"{place.host}:{port}",
        "transport": "UDP" if transport is Transport.RELAY_UDP else "TLS",
        "rtt_ms": ms(rtt_s),
        "why": why or next((view.why for view in views if view.why), ""),
        "channels": sum(view.channels for view in views),
    }
