"""A port of the gateway that leads to this endpoint: asked for by PCP, NAT-PMP or UPnP, kept alive, given back.

One language is used at a time, because a gateway keeps one table for all three and an entry made in one would be
overwritten in another. A round tries PCP, then NAT-PMP, then UPnP; the first that gives a mapping is kept to:

    no gateway --> PCP --version, silence--> NAT-PMP --silence--> UPnP --none--> resting --next round--> PCP
                    |                           |                   |
                    +---------- mapped ---------+-------------------+--> holding --expired, changed--> PCP

Rounds are as far apart as RFC 6887 section 8.1.1 has retransmissions. UPnP is HTTP and the shell's to do, asked for
by `UpnpWanted`. A mapping on a gateway that is itself behind a NAT is handed on like any other: it reaches peers
behind the same outer NAT, and costs the others one probe. Only `report` tells the difference.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from fabric.core.machine import Draw, Instant, Transmit
from fabric.core.mapping import (
    AskedGateway,
    Epoch,
    MappingEvent,
    MappingReport,
    MappingsChanged,
    Outcome,
    UpnpMapped,
    UpnpRefused,
    UpnpUnwanted,
    UpnpWanted,
    Wish,
    is_usable,
    mapped_report,
    nat_pmp_requests,
    pcp_requests,
    unmapped_report,
)
from fabric.core.mapping_pace import (
    DOUBT_LEAST_S,
    LIFETIME_S,
    MAX_LIFETIME_S,
    NEWS_INTERVAL_S,
    PATIENCE_S,
    REFUSED_LEAST_S,
    REFUSED_MOST_S,
    RENEW_LEAST_S,
    RETRY_S,
    UPNP_PATIENCE_S,
    UPNP_RENEW_S,
    AskingPace,
)
from fabric.core.pace import Pace
from fabric.core.timers import Timers
from fabric.errors import DecodeError
from fabric.wire.address import Address, Transport
from fabric.wire.pcp import (
    GATEWAY_PORT,
    NONCE_BYTES,
    SUCCESS,
    NatPmpAddress,
    NatPmpMapped,
    PcpMapped,
    PcpNews,
    Protocol,
    VersionRefused,
    decode_answer,
    result_words,
)

TELLS_AT_ONCE = 8
TELL_PAUSE_S = 30.0
"""Each news of addresses goes to all peers, by the service: so often a gateway can make us say something new."""

CLOSE_RETRY_S = 0.3
CLOSE_TRIES = 3

NO_ADDRESS = 7
"""NETWORK_FAILURE, RFC 6887 section 7.4: what a gateway should say that maps a port of no address."""

TRANSPORTS = (Transport.UDP, Transport.TCP)


class _Phase(enum.Enum):
    IDLE = enum.auto()
    PCP = enum.auto()
    NAT_PMP = enum.auto()
    UPNP = enum.auto()
    RESTING = enum.auto()
    HOLDING = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class _Timer(enum.Enum):
    STEP = enum.auto()
    """The round goes on: the next language, or the next round."""
    ASK_UDP = enum.auto()
    ASK_TCP = enum.auto()
    ASK_UPNP = enum.auto()
    EXPIRE = enum.auto()
    TELL = enum.auto()
    """Addresses change too often: they are told now."""
    CLOSE = enum.auto()


_ASK = {Transport.UDP: _Timer.ASK_UDP, Transport.TCP: _Timer.ASK_TCP}
_TRANSPORT_OF = {timer: transport for transport, timer in _ASK.items()}


@dataclass(slots=True)
class _Round:
    """How the asking goes while nothing is mapped."""

    number: int = 0
    next_at: Instant = 0.0
    refused: dict[Protocol, str] = field(default_factory=dict)
    refused_before: dict[Protocol, str] = field(default_factory=dict)
    """By the round before: what is so until this one is over."""
    keep_away_s: float = 0.0


class PortMapping:
    """`nonce`, 12 bytes, should be the same when the endpoint starts again: by it a gateway knows its client, and keeps
    for others, for hours, what a crash has left (RFC 6887 section 11.3)."""

    def __init__(self, draw: Draw, nonce: bytes | None = None, lifetime_s: int = LIFETIME_S) -> None:
        self._pace = AskingPace(draw)
        self._lifetime_s = lifetime_s
        nonce = draw(NONCE_BYTES) if nonce is None else nonce
        self._wishes = {transport: Wish(nonce) for transport in TRANSPORTS}
        self._gateway: AskedGateway | None = None
        self._phase = _Phase.IDLE
        self._protocol: Protocol | None = None
        self._epoch: Epoch | None = None
        self._round = _Round()
        self._upnp: tuple[Address, ...] = ()
        self._upnp_tries = 0
        self._timers: Timers[_Timer] = Timers()
        self._close_tries = 0
        self._deaf_until: Instant = 0.0
        self._awaits_address = False
        self._tells = Pace(TELL_PAUSE_S, TELLS_AT_ONCE)
        self._told: tuple[Address, ...] = ()
        self._events: deque[MappingEvent] = deque()
        self._transmits: deque[Transmit] = deque()

    # -- what there is to see -----------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The outside addresses that lead here, each once."""
        asked = [
            Address(wish.outside_ip, wish.outside_port, transport)
            for transport, wish in self._wishes.items()
            if wish.stands and wish.outside_ip is not None
        ]
        return tuple(dict.fromkeys((*asked, *self._upnp)))

    @property
    def report(self) -> MappingReport:
        addresses = self.addresses
        if self._gateway is None:
            return MappingReport(Outcome.NO_GATEWAY, None, (), "this host has no IPv4 gateway")
        if addresses and self._protocol is not None:
            return mapped_report(self._gateway.ip, self._protocol, addresses)
        is_first = self._round.number <= 1 and self._phase is not _Phase.RESTING
        return unmapped_report(self._gateway.ip, self._round.refused or self._round.refused_before, is_first)

    @property
    def is_closed(self) -> bool:
        """After `close`: whether nothing is left to wait for."""
        return self._phase is _Phase.CLOSED

    # -- what happens -------------------------------------------------------------------------------------------

    def handle_gateway(self, ip: str | None, own_ip: str, port: int, now: Instant) -> None:
        """Takes the gateway of the default route, None without one, and which port is to be mapped to which address.
        Told twice it is no news."""
        gateway = None if ip is None else AskedGateway(ip, own_ip, port)
        if gateway == self._gateway or self._is_closing:
            return
        self._gateway = gateway
        self._forget()
        self._round = _Round()
        if gateway is None:
            self._phase = _Phase.IDLE
        else:
            self._start_round(now)
        self._tell(now)

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Raises `DecodeError` for what is no answer of the gateway to a question of ours."""
        if self._gateway is None or source.ip != self._gateway.ip or source.port != GATEWAY_PORT:
            raise DecodeError("not from the gateway")
        match decode_answer(payload):
            case VersionRefused(version):
                self._handle_version(version, now)
            case PcpMapped() as mapped:
                self._handle_pcp(mapped, now)
            case PcpNews(epoch_s):
                self._handle_news(Protocol.PCP, epoch_s, now)
            case NatPmpAddress() as address:
                self._handle_nat_pmp_address(address, now)
            case NatPmpMapped() as mapped:
                self._handle_nat_pmp(mapped, now)
        self._tell(now)

    def handle_refused(self, now: Instant) -> None:
        """The gateway has nobody on that port (ICMP port unreachable): UPnP is what is left of the round."""
        if self._phase in (_Phase.PCP, _Phase.NAT_PMP):
            self._start_upnp(now)

    def handle_upnp(self, result: UpnpMapped | UpnpRefused | None, now: Instant) -> None:
        """Takes what became of `UpnpWanted`; None where the gateway doesn't speak UPnP."""
        if self._phase not in (_Phase.UPNP, _Phase.HOLDING) or self._protocol not in (None, Protocol.UPNP):
            return
        match result:
            case UpnpMapped(addresses, lifetime_s) if addresses and all(is_usable(a.ip) for a in addresses):
                self._hold_upnp(addresses, min(lifetime_s or self._lifetime_s, MAX_LIFETIME_S), now)
            case _ if self._phase is _Phase.HOLDING:
                self._timers.set(_Timer.ASK_UPNP, now + self._pace.backed_off_s(self._upnp_tries))
            case None:
                self._rest(now)
            case _:
                words = result.words if isinstance(result, UpnpRefused) else "it has no outside address"
                self._round.refused[Protocol.UPNP] = words
                self._rest(now)
        self._tell(now)

    def handle_upnp_removed(self) -> None:
        """What was mapped by UPnP is deleted, or could not be."""
        if self._phase is _Phase.CLOSING and self._timers.next() is None:
            self._end()

    def doubt(self, now: Instant) -> None:
        """The network may have changed behind the same gateway: asks again, unless it was asked just now."""
        if self._phase is _Phase.RESTING:
            self._round = _Round()
            self._start_round(now)
        elif any(now - wish.confirmed_at >= DOUBT_LEAST_S for wish in self._wishes.values()):
            self._doubt(now)

    def close(self, now: Instant) -> None:
        """Gives back what is mapped. Goes on for a second or so, see `is_closed`."""
        if self._is_closing:
            return
        self._protocol = Protocol.NAT_PMP if self._phase is _Phase.NAT_PMP else self._protocol
        phase, self._phase = self._phase, _Phase.CLOSING
        self._timers.clear()
        if phase is _Phase.UPNP or self._protocol is Protocol.UPNP:
            self._events.append(UpnpUnwanted(self._upnp))
        elif any(wish.has_asked for wish in self._wishes.values()) and phase is not _Phase.RESTING:
            self._delete(now)
        else:
            self._end()

    def handle_timeout(self, now: Instant) -> None:
        for timer in self._timers.take_due(now):
            match timer:
                case _Timer.STEP:
                    self._step(now)
                case _Timer.ASK_UDP | _Timer.ASK_TCP:
                    self._ask(_TRANSPORT_OF[timer], now)
                case _Timer.ASK_UPNP:
                    self._ask_upnp(now)
                case _Timer.EXPIRE:
                    self._expire(now)
                case _Timer.CLOSE:
                    self._delete(now)
                case _Timer.TELL:
                    pass
        self._tell(now)

    def next_timeout(self) -> Instant | None:
        return self._timers.next()

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> MappingEvent | None:
        return self._events.popleft() if self._events else None

    # -- rounds -------------------------------------------------------------------------------------------------

    @property
    def _is_closing(self) -> bool:
        return self._phase in (_Phase.CLOSING, _Phase.CLOSED)

    def _start_round(self, now: Instant) -> None:
        self._round.next_at = now + self._pace.backed_off_s(self._round.number)
        self._round.number += 1
        self._round.refused_before, self._round.refused = self._round.refused, {}
        self._round.keep_away_s = 0.0
        self._start(_Phase.PCP, now)

    def _start(self, phase: _Phase, now: Instant) -> None:
        """Asks for everything in one language."""
        self._phase = phase
        self._timers.clear()
        self._timers.set(_Timer.STEP, now + PATIENCE_S)
        for transport, wish in self._wishes.items():
            wish.forget()
            self._ask(transport, now)

    def _start_upnp(self, now: Instant) -> None:
        self._phase = _Phase.UPNP
        self._timers.clear()
        self._upnp_tries = 0
        self._ask_upnp(now)

    def _step(self, now: Instant) -> None:
        match self._phase:
            case _Phase.PCP:
                self._start(_Phase.NAT_PMP, now)
            case _Phase.NAT_PMP:
                self._start_upnp(now)
            case _Phase.UPNP:
                self._rest(now)
            case _Phase.RESTING:
                self._start_round(now)
            case _:
                pass

    def _rest(self, now: Instant) -> None:
        self._phase = _Phase.RESTING
        self._round.refused_before = {}
        self._timers.clear()
        self._timers.set(_Timer.STEP, max(self._round.next_at, now + self._round.keep_away_s, now + RETRY_S))

    def _hold(self, protocol: Protocol) -> None:
        if self._phase is not _Phase.HOLDING:
            self._phase, self._protocol = _Phase.HOLDING, protocol
            self._timers.cancel(_Timer.STEP)

    def _forget(self) -> None:
        self._timers.clear()
        self._protocol, self._epoch, self._upnp = None, None, ()
        self._awaits_address = False
        for wish in self._wishes.values():
            wish.forget()
            wish.has_asked = False

    def _begin_anew(self, now: Instant) -> None:
        """What was held is lost, or held in a language that the gateway has forgotten."""
        self._forget()
        self._round = _Round()
        self._start_round(now)

    # -- asking -------------------------------------------------------------------------------------------------

    @property
    def _language(self) -> Protocol:
        if self._protocol is not None:
            return self._protocol
        return Protocol.NAT_PMP if self._phase is _Phase.NAT_PMP else Protocol.PCP

    def _ask(self, transport: Transport, now: Instant) -> None:
        wish = self._wishes[transport]
        self._timers.set(_ASK[transport], now + self._pace.retry_s(wish, self._language, now))
        wish.asked += 1
        wish.has_asked = True
        self._send(transport, self._lifetime_s)

    def _send(self, transport: Transport, lifetime_s: int) -> None:
        if self._gateway is None:
            return
        to = Address(self._gateway.ip, GATEWAY_PORT)
        wish = self._wishes[transport]
        self._awaits_address |= self._language is Protocol.NAT_PMP and lifetime_s > 0
        encode = nat_pmp_requests if self._language is Protocol.NAT_PMP else pcp_requests
        self._transmits.extend(Transmit(to, payload) for payload in encode(self._gateway, wish, transport, lifetime_s))

    def _ask_upnp(self, now: Instant) -> None:
        gateway = self._gateway
        if gateway is not None:
            self._upnp_tries += 1
            self._timers.set(_Timer.STEP, now + UPNP_PATIENCE_S)
            self._events.append(UpnpWanted(gateway.ip, gateway.own_ip, gateway.port, self._lifetime_s, self._upnp))

    # -- answers ------------------------------------------------------------------------------------------------

    def _handle_version(self, version: int, now: Instant) -> None:
        """Whatever else the gateway speaks, it isn't our PCP: where it is NAT-PMP, now is the time for it."""
        if self._phase is _Phase.PCP:
            self._start(_Phase.NAT_PMP, now)
        elif self._phase is _Phase.NAT_PMP and version != 0:
            self._start_upnp(now)
        elif not any(wish.asked for wish in self._wishes.values()):
            raise DecodeError("a refusal of no question")
        elif self._phase is _Phase.HOLDING and self._protocol is not Protocol.UPNP:
            self._begin_anew(now)

    def _handle_pcp(self, mapped: PcpMapped, now: Instant) -> None:
        wish = self._wishes[mapped.transport]
        gateway = self._gateway
        if gateway is None or mapped.nonce != wish.nonce or mapped.port != gateway.port or not wish.has_asked:
            raise DecodeError("an answer to somebody else")
        if self._phase is _Phase.CLOSING:
            self._handle_deleted(wish)
        elif self._language is not Protocol.PCP or self._phase not in (_Phase.PCP, _Phase.HOLDING):
            raise DecodeError("an answer that comes too late")
        else:
            self._note_epoch(Protocol.PCP, mapped.epoch_s, now)
            wish.outside_ip = mapped.outside_ip
            result = mapped.result if is_usable(mapped.outside_ip) else mapped.result or NO_ADDRESS
            self._settle(mapped.transport, result, mapped.outside_port, mapped.lifetime_s, now)

    def _handle_nat_pmp_address(self, address: NatPmpAddress, now: Instant) -> None:
        if self._phase is _Phase.RESTING or (self._phase is _Phase.HOLDING and not self._awaits_address):
            self._handle_announced(address, now)
            return
        if self._language is not Protocol.NAT_PMP or self._is_closing:
            raise DecodeError("nobody asked for an address")
        self._awaits_address = False
        self._note_epoch(Protocol.NAT_PMP, address.epoch_s, now)
        has_address = address.result == SUCCESS and is_usable(address.outside_ip)
        if not has_address:
            self._round.refused[Protocol.NAT_PMP] = "it has no outside address"
        for wish in self._wishes.values():
            wish.outside_ip = address.outside_ip if has_address else None

    def _handle_announced(self, address: NatPmpAddress, now: Instant) -> None:
        """Told to the whole LAN (RFC 6886 section 3.2.1), and by anybody on it: a reason to ask, and no more."""
        self._handle_news(Protocol.NAT_PMP, address.epoch_s, now)
        known = {wish.outside_ip for wish in self._wishes.values() if wish.stands}
        if self._phase is _Phase.HOLDING and address.outside_ip not in known and now >= self._deaf_until:
            self._deaf_until = now + NEWS_INTERVAL_S
            self._doubt(now + self._pace.news_s())

    def _handle_nat_pmp(self, mapped: NatPmpMapped, now: Instant) -> None:
        wish = self._wishes[mapped.transport]
        gateway = self._gateway
        if gateway is None or mapped.port != gateway.port or self._language is not Protocol.NAT_PMP:
            raise DecodeError("an answer to somebody else")
        if self._phase is _Phase.CLOSING:
            self._handle_deleted(wish)
        elif not wish.asked:
            raise DecodeError("an answer to no question")
        else:
            self._note_epoch(Protocol.NAT_PMP, mapped.epoch_s, now)
            self._settle(mapped.transport, mapped.result, mapped.outside_port, mapped.lifetime_s, now)

    def _settle(self, transport: Transport, result: int, outside_port: int, lifetime_s: int, now: Instant) -> None:
        """Notes what the gateway has said to one wish."""
        wish = self._wishes[transport]
        protocol = self._language
        wish.asked, wish.is_settled, wish.confirmed_at = 0, True, now
        if result != SUCCESS or outside_port == 0 or lifetime_s == 0:
            self._note_refusal(transport, result, lifetime_s, now)
            return
        wish.outside_port, wish.refusal = outside_port, SUCCESS
        wish.expires_at = now + min(lifetime_s, MAX_LIFETIME_S)
        self._timers.set(_ASK[transport], now + self._pace.renewal_s(wish, now))
        self._hold(protocol)
        self._arm_expiry()

    def _note_refusal(self, transport: Transport, result: int, lifetime_s: int, now: Instant) -> None:
        wish = self._wishes[transport]
        wish.outside_port, wish.outside_ip, wish.refusal = 0, None, result or -1
        keep_away_s = min(max(lifetime_s, REFUSED_LEAST_S), REFUSED_MOST_S)
        self._timers.set(_ASK[transport], now + keep_away_s)
        self._round.refused[self._language] = result_words(self._language, result)
        self._round.keep_away_s = max(self._round.keep_away_s, keep_away_s)
        if any(other.stands for other in self._wishes.values()):
            return
        if self._phase is _Phase.HOLDING:
            self._begin_anew(now)
        elif all(other.refusal for other in self._wishes.values()):
            self._step(now)

    def _handle_deleted(self, wish: Wish) -> None:
        wish.has_asked = False
        if not any(other.has_asked for other in self._wishes.values()):
            self._end()

    def _hold_upnp(self, addresses: tuple[Address, ...], lifetime_s: float, now: Instant) -> None:
        self._upnp = addresses
        self._upnp_tries = 0
        self._hold(Protocol.UPNP)
        self._timers.cancel(_Timer.STEP)
        self._timers.set(_Timer.ASK_UPNP, now + max(RENEW_LEAST_S, min(lifetime_s / 2, UPNP_RENEW_S)))
        self._timers.set(_Timer.EXPIRE, now + lifetime_s)

    # -- a gateway that has restarted ---------------------------------------------------------------------------

    def _handle_news(self, protocol: Protocol, epoch_s: int, now: Instant) -> None:
        """An announcement to the whole LAN. Whoever rests learns that there is somebody to ask. The clock of another
        language than the one that is spoken can't be compared, so such news are a reason to ask, now and then."""
        at = now + self._pace.news_s()
        if self._phase is _Phase.RESTING:
            self._timers.set(_Timer.STEP, at)
        elif self._phase is _Phase.HOLDING and self._protocol is protocol:
            known, self._epoch = self._epoch, Epoch(epoch_s, now)
            if known is None or known.has_restarted(protocol, epoch_s, now):
                self._restore(at)
        elif self._phase is _Phase.HOLDING and now >= self._deaf_until:
            self._deaf_until = now + NEWS_INTERVAL_S
            self._doubt(at)

    def _note_epoch(self, protocol: Protocol, epoch_s: int, now: Instant) -> None:
        known, self._epoch = self._epoch, Epoch(epoch_s, now)
        is_restoring = not any(wish.is_settled for wish in self._wishes.values())
        if self._phase is not _Phase.HOLDING or known is None or is_restoring:
            return
        if known.has_restarted(protocol, epoch_s, now):
            self._restore(now)

    def _doubt(self, at: Instant) -> None:
        if self._protocol is Protocol.UPNP:
            self._timers.set(_Timer.ASK_UPNP, at)
        elif self._phase is _Phase.HOLDING:
            self._restore(at)

    def _restore(self, at: Instant) -> None:
        """Asks for everything again at that time. What was told stays told: mostly it comes back as it was."""
        for transport, wish in self._wishes.items():
            is_planned = not wish.is_settled and not wish.asked  # which news without end are not to put off
            if not wish.refusal and not is_planned:
                wish.is_settled, wish.asked = False, 0
                self._timers.set(_ASK[transport], at)

    # -- the end ------------------------------------------------------------------------------------------------

    def _arm_expiry(self) -> None:
        standing = [wish.expires_at for wish in self._wishes.values() if wish.stands]
        if standing:
            self._timers.set(_Timer.EXPIRE, min(standing))

    def _expire(self, now: Instant) -> None:
        for wish in self._wishes.values():
            if wish.stands and wish.expires_at <= now:
                wish.forget()
        if self._protocol is Protocol.UPNP or not any(wish.stands for wish in self._wishes.values()):
            self._begin_anew(now)
        else:
            self._arm_expiry()

    def _delete(self, now: Instant) -> None:
        if self._close_tries >= CLOSE_TRIES:
            self._end()
            return
        self._close_tries += 1
        for transport, wish in self._wishes.items():
            if wish.has_asked:
                self._send(transport, 0)
        self._timers.set(_Timer.CLOSE, now + CLOSE_RETRY_S)

    def _end(self) -> None:
        self._forget()
        self._phase = _Phase.CLOSED

    def _tell(self, now: Instant) -> None:
        addresses = self.addresses
        if self._is_closing:
            return
        if addresses == self._told:
            self._timers.cancel(_Timer.TELL)
        elif self._tells.try_take(now):
            self._timers.cancel(_Timer.TELL)
            self._told = addresses
            self._events.append(MappingsChanged(addresses))
        else:
            self._timers.set_if_unset(_Timer.TELL, now + TELL_PAUSE_S)
