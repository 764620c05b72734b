"""The figures that the pages tell are those of the code: each phrase below is made of the constants it speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.core import grants
from discovery.core.relay import MAX_RELAYED_BYTES, MAX_WAYS, RelaySettings
from discovery.core.settings import Settings as ServiceSettings
from fabric.core import (
    beacons,
    guessing,
    offer_inbox,
    one_path,
    opener,
    own_addresses,
    passing,
    path,
    path_mtu,
    path_rhythm,
    port_mapping,
    reach,
    reflexive,
    relay_choice,
    relays,
    seeking,
    talk,
    telling,
)
from fabric.core.mapping_pace import LIFETIME_S, UPNP_RENEW_S
from fabric.core.peer import TURN_S
from fabric.core.relay_upkeep import LOOKS_S
from fabric.core.session import IDLE_FACTOR
from fabric.core.settings import Settings
from fabric.dataplane import slices
from fabric.shell import framing, multicast, outbox, tcp, tcp_link, tcp_stream
from fabric.wire import beacon, offer, record, stun
from fabric.wire import path as path_messages
from fabric.wire.address import Transport

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = Settings()
SERVICE = ServiceSettings()
RELAY = RelaySettings()

PORTS = 65_536 - guessing.FIRST_PORT
ODDS = PORTS / guessing.SOCKETS


def listed(seconds: tuple[float, ...], last: str) -> str:
    return ", ".join(f"{each:g}" for each in seconds[:-1]) + f"{last}{seconds[-1]:g}"


PHRASES = {
    "docs/paths.md": (
        f"at up to {reflexive.MAX_SERVERS} servers",
        f"asked again every {DEFAULTS.stun_interval_s:g} s, or after {reflexive.LIFETIME_SHARE} of the time",
        f"at most {reflexive.MAX_INTERVAL_S:g} s",
        f"every {UPNP_RENEW_S / 60:g} minutes",
        f"up to {offer.MAX_CANDIDATES} of them",
        f"{seeking.GUESS_DELAY_S} s guessing",
        f"{seeking.TCP_DELAY_S:g} s TCP",
        listed(seeking.INTERVALS_S, ", then every ") + " s",
        f"tried every {path_rhythm.PATIENT_INTERVAL_S:g} s for a quarter of an hour",
        f"after {sum(LOOKS_S):.2f} s of silence over TLS",
        f"from {guessing.SOCKETS} sockets",
        f"hits one of the {guessing.SOCKETS} mappings with 1/{ODDS:g}",
        f"{guessing.SOCKETS} of the {PORTS:,} ports from {guessing.FIRST_PORT} up",
        f"the {guessing.PREDICTED} behind the last one seen",
        f"at most {guessing.GUESSES_A_ROUND:,} datagrams",
        f"at {guessing.GUESS_BATCH / guessing.GUESS_PAUSE_S:g} a second",
        f"{guessing.GUESSES_AT_MOST:,} in all",
        f"{guessing.GUESSES_AT_MOST:,} at once, and {guessing.GUESSES_PER_S * 3600:,.0f} an hour",
        f"or once in {opener.ROUND_PAUSE_S / 60:g} minutes",
        f"for {guessing.ROUND_S:g} s, and after four rounds",
        f"for {tcp.CONNECT_S:g} s; what opens first",
        "after " + listed(path_rhythm.DOOR_INTERVALS_S, " and every ") + " s",
        f"silent is reset after {tcp_link.VOUCH_S:g} s",
        f"longer than {outbox.MAX_FRAME_AGE_S * 1000:g} ms",
        f"No segment is longer than {tcp_stream.SEGMENT_BYTES:,} bytes",
        f"UDP port {beacon.PORT} of {beacon.GROUP_4} and of {beacon.GROUP_6}",
        "then after " + listed(beacons.INTERVALS_S[1:], " and every ") + " s",
        f"{1 / beacons.SPACING_S:g} a second in all, on at most {multicast.MAX_LINKS} interfaces",
        f"({path_rhythm.BUSY_SILENCE_S + path_rhythm.PATIENCE * path_rhythm.RETRY_S:g} s), at the end of a "
        f"conversation after {path_rhythm.HUSH_S:g} s, idle after {DEFAULTS.keepalive_s:g} s",
        f"not heard for {one_path.STALE_S:g} s",
        f"waits {TURN_S} s longer",
        f"every {path_rhythm.SPARE_INTERVAL_S:g} s (a relay every {path_rhythm.RELAY_SPARE_INTERVAL_S:g} s)",
        f"every {relays.INTERVAL_S:g} to {relays.MAX_INTERVAL_S:g} s, for all peers at once",
        f"starts at {path_mtu.BASE_BYTES:,} bytes",
        f"after every {path_mtu.CONFIRM_S:g} s; five misses, {path_mtu.ROUND_S} s apart",
        f"gets through, {path_mtu.LEAST_BYTES}.",
        f"after at most {path_mtu.RAISE_S / 60:g} minutes",
        f"at most {slices.MAX_PARTIAL} frames and {slices.MAX_WAITING_BYTES >> 20} MiB wait",
    ),
    "docs/protocol.md": (
        f"less than {path_messages.MAX_OFFER_BYTES:,} bytes",
        f"at most {offer.MAX_CANDIDATES} candidates",
        f"a TCP port below {reach.FIRST_FREE_PORT} but {reach.HTTPS_PORT}",
        f"up to {record.MAX_SLICES} slices",
        f"at most {record.MAX_CONTROL_BYTES:,} bytes",
        f"{passing.BURST} at once and {1 / passing.SPACING_S:g} a second",
        f"{offer_inbox.BURST} at once, {1 / offer_inbox.SPACING_S:g} a second, the newest first",
        f"or {DEFAULTS.rekey_after_s:g} s. A session under which",
        f"renewed after {IDLE_FACTOR * DEFAULTS.rekey_after_s:g} s instead",
        f"lives for up to {IDLE_FACTOR * DEFAULTS.session_life_s:g} s",
        f"leaves it {DEFAULTS.session_life_s:g} s at most",
        f"n is 1 to {framing.MAX_FRAMED_BYTES:,}",
        f"{tcp.MAX_UNVOUCHED} such connections wait at a time, {tcp.MAX_UNVOUCHED_PER_SOURCE} from one source",
        f"UDP port {beacon.PORT} of {beacon.GROUP_4}",
        f"{beacon.GROUP_6}, with a hop limit of {beacon.HOP_LIMIT}",
        f"{record.overlay_mtu(1500):,} bytes. It does not follow the paths",
        f"| {path.MAX_PATHS} | candidates",
        f"| {tcp.MAX_LINKS}; {tcp.MAX_UNVOUCHED}; {tcp.MAX_UNVOUCHED_PER_SOURCE}, for {tcp_link.VOUCH_S:g} s |",
        f"| {reflexive.MAX_SERVERS}; {relays.MAX_RELAYS} | the service names them",
        f"| {path_messages.MAX_ENVELOPE_BYTES:,} bytes | an offer takes",
        f"| {MAX_WAYS}, {RELAY.max_bindings:,} |",
        f"| {MAX_RELAYED_BYTES:,} bytes | jumbo frames",
        f"| {SERVICE.grant_life_s / 3600:g} h, {RELAY.life_s} s |",
    ),
    "docs/security.md": (
        f"{path.PROBES_AT_ONCE:,} probes at once and {path.PROBES_PER_S:g} a second",
        f"after the first {path.DOORS_AT_ONCE}",
        f"{guessing.GUESSES_AT_MOST:,} at once and {guessing.GUESSES_PER_S * 3600:,.0f} an hour",
    ),
}

SPELLED = (
    (relay_choice.MAX_GRANTED, 4, "paths.md: the first four count"),
    (grants.MAX_RELAYS, 8, "paths.md: up to eight relays"),
    (passing.MAX_PASSERS, 4, "paths.md: asks up to four peers"),
    (LIFETIME_S, 7200, "paths.md: two hours"),
    (path.FLAPPING_S, 60.0, "paths.md: lost within a minute"),
    (opener.MAX_ROUNDS, 4, "paths.md: after four rounds"),
    (own_addresses.MAX_OBSERVERS, 4, "paths.md: what up to four peers see"),
    (1 + len(telling.AGAIN_S), 3, "paths.md: three times for fear of loss"),
    (talk.RECORDS, 4, "paths.md: four records"),
    (path_mtu.MISSES, 5, "paths.md: five misses"),
    (slices.EXPIRY_S, 1.0, "paths.md: for at most one second"),
    (stun.MAX_AMPLIFICATION, 3, "protocol.md: three times the bytes"),
    (port_mapping.TRANSPORTS, (Transport.UDP, Transport.TCP), "paths.md: for UDP and TCP"),
)
"""Figures that stand in a page as words."""


@pytest.mark.parametrize(("page", "phrase"), [(page, phrase) for page, all_ in PHRASES.items() for phrase in all_])
def test_a_figure_of_a_page_is_that_of_the_code(page: str, phrase: str) -> None:
    assert phrase in " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize(("stands", "told", "where"), SPELLED, ids=[where for _, _, where in SPELLED])
def test_a_figure_in_words_is_that_of_the_code(stands: object, told: object, where: str) -> None:
    assert stands == told, where
