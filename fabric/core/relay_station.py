"""One relay: over which way it is reached, and which channels stand there.

    looking --CHALLENGE over UDP--> up over UDP --three REFRESHes unanswered--> looking
       |                                ^
       +--0.8 s of silence---> TLS wanted --link, CHALLENGE--> up over TLS, still looking --CHALLENGE over UDP--+

A look is the BIND of any one grant, without a cookie, to every UDP address of the relay at once: the first that
answers is used. Its CHALLENGE costs the relay nothing. BIND, CHALLENGE, BIND, BOUND: two round trips bring a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import islice

from fabric.core.machine import NEVER, Draw, Instant, Transmit
from fabric.core.relay_binding import BINDS_AT_ONCE, PAUSE_S, Binding, Bindings, BindQueue
from fabric.core.relay_rival import Moves
from fabric.core.relay_tls import ChannelsChanged, StationEvent, TlsLink
from fabric.core.relay_upkeep import REFRESH_RETRIES_MOVED_S, Lookout, Sight, Upkeep
from fabric.errors import DecodeError
from fabric.wire import relay as wire
from fabric.wire.address import Address, Transport
from fabric.wire.rendezvous import RelayPlace

LOOK_LIMIT_S = 300.0
LOOK_LIMIT_STRANGE_S = 60.0
"""Where nobody has ever answered: perhaps it is no relay at all."""
LOOK_LIMIT_LOST_S = 10.0
"""While the relay isn't reached over TLS either: that is more often this host's trouble than the relay's, and must
not outlast it by more."""
BIND_RETRIES_S = (0.3, 0.5, 0.8)
FULL_PAUSE_S = 60.0
MAX_CHALLENGES = 3
"""To one question: each costs a signature, and a relay that never has enough gets no more."""
DOUBT_S = 2.0
"""As often as a doubt is worth a question: a thousand peers may lose their paths in one moment."""
HEARD_S = 0.5
"""No doubt comes sooner behind the last sign of a path: a relay that was heard since is not meant."""
DOUBT_LIMIT_S = 30.0
"""What is looked for in vain is looked for more and more rarely, as there may be doubts without end."""
REFUSED_PAUSE_S = 0.02
"""As binds are paced: every grant of a relay's may be refused in a row."""
REFRESH_TLS_S = 30.0
REFRESH_LEAST_S = 5.0
"""However short the life that a relay gives its channels."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a station needs of those around it.

    `sign` signs a cookie and a grant id by the own identity key. `announce` takes events, `transmit` datagrams;
    `review` hears of each peer that the relay began or ceased to serve; `may_call` counts a call to an address that
    never answered, and says whether there may be one. `suspect` hears of a peer whose channel somebody else seems to
    bind.
    """

    sign: Callable[[bytes, bytes], bytes]
    draw: Draw
    announce: Callable[[StationEvent], None]
    transmit: Callable[[Transmit], None]
    review: Callable[[str], None]
    may_call: Callable[[Instant], bool]
    suspect: Callable[[str, Instant], None]


@dataclass(slots=True)
class _Way:
    """One address of the relay. `heard` is when it answered last."""

    address: Address
    heard: Instant = -NEVER
    life_s: float = NEVER
    looked_with: bytes | None = None
    """Id of the grant of an unanswered look."""

    @property
    def is_tls(self) -> bool:
        return self.address.transport is Transport.RELAY_TLS

    @property
    def is_strange(self) -> bool:
        """Whether nobody ever answered there."""
        return self.heard == -NEVER


class Station:
    """`interval_s` is how often channels over UDP are refreshed."""

    def __init__(self, place: RelayPlace, ports: Ports, now: Instant) -> None:
        self._ports = ports
        self._bindings = Bindings(lambda peer: ports.announce(ChannelsChanged(peer)))
        self._queue = BindQueue()
        self._ways: dict[Address, _Way] = {}
        self._link = TlsLink(place, ports.announce)
        self._active: _Way | None = None
        self._lookout = Lookout()
        self._upkeep = Upkeep()
        self._sought: Instant = -NEVER
        self._doubted: Instant = -NEVER
        self._doubt_s = DOUBT_S
        self.lost_at = now
        """Since when the relay is out of reach; `NEVER` where it is reached."""
        self.interval_s = REFRESH_TLS_S

    @property
    def is_unused(self) -> bool:
        return not self._bindings

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(self._ways)

    @property
    def active(self) -> Address | None:
        """How the relay is reached now."""
        return self._active.address if self._active is not None else None

    @property
    def channel_count(self) -> int:
        return self._bindings.count(self._active.address) if self._active is not None else 0

    @property
    def peers(self) -> Collection[str]:
        """Those for whom channels are asked for."""
        return self._bindings.peers

    def is_vain(self, peer: str) -> bool:
        """Whether the relay is there, but has been asked for a channel to this peer in vain."""
        binding = self._bindings.of_peer(peer)
        return binding is not None and binding.is_vain

    def moves(self, peer: str) -> Moves | None:
        """Returns what the relay tells of how often the channel to this peer was moved."""
        binding = self._bindings.of_peer(peer)
        return binding.moves if binding else None

    def channels(self, peer: str) -> tuple[Address, ...]:
        """Returns what leads to the peer, the newest first: two while one way takes the place of another."""
        binding = self._bindings.of_peer(peer)
        return binding.channels if binding else ()

    # what is asked for

    def bind(self, peer: str, grant: bytes, grant_id: bytes, now: Instant) -> None:
        """Asks for a channel. One that stands under an older grant stays until the new one is bound."""
        binding = self._bindings.add(peer, grant, grant_id)
        if binding is not None:
            self._pursue(binding, now)

    def unbind(self, peer: str) -> None:
        """The relay ends the channel by itself, some time after it was refreshed last."""
        self._bindings.remove(peer)

    def close(self) -> None:
        self._link.release()

    # the ways to the relay

    def handle_addresses(self, udp: tuple[Address, ...], tls: Address | None, now: Instant) -> None:
        """The relay is at these addresses now. What is in use and still among them stays as it is."""
        self._link.handle_address(tls)
        wanted = udp if self._link.address is None else (*udp, self._link.address)
        has_more = not set(wanted) <= set(self._ways)
        self._ways = {address: self._ways.get(address) or _Way(address) for address in wanted}
        if self._active is not None and self._active.address not in self._ways:
            self._lose(now)
        elif has_more and (self._active is None or self._active.is_tls):
            self._seek(now)

    def handle_link(self, *, up: bool, now: Instant) -> None:
        """The TLS connection stands, or no longer; the shell opens it again. A new one means nothing to the relay."""
        address = self._link.address
        if address is None or not self._link.handle(up=up):
            return
        self._ways[address] = _Way(address)
        if self._active is not None and self._active.address == address:
            self._lose(now)
        elif self._active is None:
            self._link.begin_opening(now)
        self._bindings.drop_channels(address)

    def handle_moved(self, now: Instant) -> None:
        """The own network changed: the relay perhaps knows this end by another address, and other ways may open."""
        self._doubt_s = DOUBT_S
        self._link.forgive()
        way = self._active
        if way is None or way.is_tls:
            self._seek(now)
        if way is not None:
            standing = self._bindings.standing(way.address)
            self._upkeep.begin(tuple(standing), now, REFRESH_RETRIES_MOVED_S)
            # Most likely needed: doesn't wait for what the refresh brings.
            for binding in islice(standing.values(), BINDS_AT_ONCE):
                self._pursue(binding, now)

    def handle_doubt(self, now: Instant) -> None:
        """Something else is reached no longer, or again: so is the relay, perhaps. Cheap enough for every doubt."""
        way = self._active
        if way is None:
            if now - self._sought >= self._doubt_s:
                self._doubt_s = min(2 * self._doubt_s, DOUBT_LIMIT_S)
                self._seek(now)
        elif now - way.heard >= HEARD_S and now - self._doubted >= DOUBT_S and not self._upkeep.is_under_way:
            self._doubted = now
            self._upkeep.begin(tuple(self._bindings.standing(way.address)), now, REFRESH_RETRIES_MOVED_S)

    # datagrams

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Raises `DecodeError` for what answers no question that is open on this way."""
        message = wire.decode_relay_message(payload)
        way = self._ways[source]
        match message:
            case wire.Challenge():
                self._handle_challenge(way, message, now)
            case wire.Bound():
                self._handle_bound(way, message, now)
            case wire.Refreshed():
                self._handle_refreshed(way, message, now)
            case wire.Refused():
                self._handle_refused(way, message, now)
            case _:
                raise DecodeError("a relay asks nothing")

    def _handle_challenge(self, way: _Way, message: wire.Challenge, now: Instant) -> None:
        binding = self._bindings.of_grant(message.grant_id)
        if binding is None:
            raise DecodeError("a cookie for another")
        is_asked = binding.asked_on == way.address and binding.challenges < MAX_CHALLENGES
        if not is_asked and way.looked_with != message.grant_id:
            raise DecodeError("a cookie that nobody asked for")
        way.heard = now
        way.looked_with = None
        if is_asked:
            binding.challenges += 1
            binding.cookie = message.cookie
            self._ask(binding, way)
            return
        self._open(way, now)
        if way is self._active:
            binding.cookie = message.cookie

    def _handle_bound(self, way: _Way, message: wire.Bound, now: Instant) -> None:
        binding = self._asked(way, message.grant_id)
        channel = replace(way.address, via=message.channel)
        if self._bindings.of_channel(channel) not in (None, binding):
            raise DecodeError("a channel that is another peer's")
        way.heard = now
        way.life_s = message.life_s
        binding.rest()
        binding.bound_at = now
        self._note_vain(binding, is_vain=False)
        binding.moves.note_told(channel, message.moves, now)
        if binding.moves.is_contested(now):
            self._ports.suspect(binding.peer, now)
        self._bindings.add_channel(binding, channel)
        if way is self._active:
            self._upkeep.plan(now + self._interval(way))

    def _handle_refreshed(self, way: _Way, message: wire.Refreshed, now: Instant) -> None:
        if way is not self._active:
            raise DecodeError("an answer to no refresh")
        missing = self._upkeep.answer(message.channels, now, self._interval(way))
        way.heard = now
        for number in missing:
            channel = replace(way.address, via=number)
            binding = self._bindings.of_channel(channel)
            if binding is not None:
                self._bindings.drop_channel(binding, channel)
                self._ask_anew(binding, now)

    def _handle_refused(self, way: _Way, message: wire.Refused, now: Instant) -> None:
        binding = self._bindings.of_grant(message.grant_id)
        is_look = binding is not None and way.looked_with == message.grant_id
        binding = binding if binding is not None and is_look else self._asked(way, message.grant_id)
        way.heard = now
        is_full = message.reason is wire.RefusedReason.FULL
        binding.rest()
        self._note_vain(binding, is_vain=True)
        if not is_full:
            self._bindings.bury(binding)
        if is_look:
            way.looked_with = None
            self._look_again(way, now + (FULL_PAUSE_S if is_full else REFUSED_PAUSE_S))
        elif is_full:
            self._queue.put(binding, now + FULL_PAUSE_S)

    def _asked(self, way: _Way, grant_id: bytes) -> Binding:
        binding = self._bindings.of_grant(grant_id)
        if binding is None or binding.asked_on != way.address:
            raise DecodeError("an answer to no question")
        return binding

    # time

    def handle_timeout(self, now: Instant) -> None:
        if self._lookout.due <= now:
            self._look(now)
        if self._link.open_at <= now:
            self._look_over_link(now)
        if self._link.release_at <= now:
            self._release()
        if self._link.want_at <= now:
            self._link.want(now)
        if self._upkeep.due <= now:
            self._refresh(now)
        while self._active is not None and (binding := self._queue.take_due(now)) is not None:
            self._ask_or_give_up(binding, self._active, now)

    def next_timeout(self) -> Instant:
        asked = self._queue.next() if self._active is not None else None
        planned = min(self._lookout.due, self._link.next_timeout(), self._upkeep.due)
        return planned if asked is None else min(planned, asked)

    # looking

    def _seek(self, now: Instant) -> None:
        """Looks for a better way than there is, from the beginning."""
        if not self._ways or self._bindings.living() is None:
            return
        self._sought = now
        if any(not way.is_tls for way in self._ways.values()):
            self._lookout.begin(now)
        else:
            self._link.want(now)
        if self._active is None:
            self._link.begin_opening(now)

    def _look(self, now: Instant) -> None:
        if self._bindings.living() is None:
            self._lookout.stop()
            return
        if self._lookout.handle_due(now, self._look_limit_s(), self._ports.draw(1)[0] / 255) is Sight.SILENCE:
            self._link.want(now)
            return
        for way in self._ways.values():
            if not way.is_tls and (not way.is_strange or self._ports.may_call(now)):
                self._look_over(way)

    def _look_limit_s(self) -> float:
        if self._active is not None:
            return LOOK_LIMIT_S
        is_strange = all(way.is_strange for way in self._ways.values())
        return LOOK_LIMIT_STRANGE_S if is_strange else LOOK_LIMIT_LOST_S

    def _look_over(self, way: _Way) -> None:
        binding = self._bindings.living()
        if binding is not None:
            way.looked_with = binding.grant_id
            self._say(way, wire.Bind(wire.NO_COOKIE, wire.NO_SIGNATURE, binding.grant))

    def _look_again(self, way: _Way, at: Instant) -> None:
        """The relay is there, but didn't like the grant that was shown to it."""
        if way.is_tls and self._active is None:
            self._link.stop_opening()
            self._link.begin_opening(at)
        elif not way.is_tls and (self._active is None or self._active.is_tls):
            self._lookout.begin(at)

    def _open(self, way: _Way, now: Instant) -> None:
        """The way carries: uses it, unless one that is as good is in use."""
        if self._active is not None and (way.is_tls or not self._active.is_tls):
            return
        self._active, self.lost_at, self._doubt_s = way, NEVER, DOUBT_S
        self._upkeep.stop()
        if way.is_tls:
            self._link.stop_opening()
        else:
            self._lookout.stop()
            self._link.plan_release(now)
        for binding in self._bindings:
            if not binding.is_dead:
                binding.rest()
                self._ask_anew(binding, now)

    def _lose(self, now: Instant) -> None:
        """The way in use carries no longer: its channels are gone."""
        way, self._active, self.lost_at = self._active, None, now
        self._upkeep.stop()
        self._link.keep()
        for binding in self._bindings:
            binding.rest()
        if way is not None:
            way.looked_with = None
            self._bindings.drop_channels(way.address)
        self._seek(now)

    def _look_over_link(self, now: Instant) -> None:
        address = self._link.address
        if address is None or self._bindings.living() is None:
            self._link.stop_opening()
        elif self._link.handle_open_due(now):
            self._look_over(self._ways[address])
        else:
            self._release()
            self._link.want_anew(now)

    def _release(self) -> None:
        self._link.release()
        if (address := self._link.address) is not None:
            self._ways[address] = _Way(address)
            self._bindings.drop_channels(address)

    # channels

    def _pursue(self, binding: Binding, now: Instant) -> None:
        if self._active is not None:
            if binding.asked_on is None:
                self._queue.put(binding, now)
        elif self._lookout.due == NEVER:
            self._seek(now)

    def _ask_anew(self, binding: Binding, now: Instant) -> None:
        """There is a channel no longer. A relay may end them all the time."""
        if not binding.is_dead and binding.asked_on is None:
            pause_s = binding.begin_anew(now)
            self._note_vain(binding, is_vain=binding.is_vain or pause_s > 0)
            self._queue.put(binding, now + pause_s)

    def _note_vain(self, binding: Binding, *, is_vain: bool) -> None:
        if binding.is_vain != is_vain:
            binding.is_vain = is_vain
            self._ports.review(binding.peer)

    def _ask_or_give_up(self, binding: Binding, way: _Way, now: Instant) -> None:
        if binding.tries == 0:
            binding.first_asked = now
        if binding.tries < len(BIND_RETRIES_S):
            binding.asked_on = way.address
            binding.challenges = 0
            self._queue.put(binding, now + BIND_RETRIES_S[binding.tries])
            binding.tries += 1
            self._ask(binding, way)
        elif way.heard < binding.first_asked:
            self._handle_silence(way, now)
        else:
            binding.rest()
            self._note_vain(binding, is_vain=True)
            self._queue.put(binding, now + max(PAUSE_S, binding.back_off()))

    def _ask(self, binding: Binding, way: _Way) -> None:
        cookie = binding.cookie
        if cookie is None:
            self._say(way, wire.Bind(wire.NO_COOKIE, wire.NO_SIGNATURE, binding.grant))
        else:
            binding.moves.note_asked()
            self._say(way, wire.Bind(cookie, self._ports.sign(cookie, binding.grant_id), binding.grant))

    def _refresh(self, now: Instant) -> None:
        way = self._active
        if way is None:
            self._upkeep.stop()
            return
        if not self._upkeep.is_under_way:
            self._upkeep.begin(tuple(self._bindings.standing(way.address)), now)
        if not self._upkeep.is_under_way:
            return
        channels = self._upkeep.question(now)
        if channels is None:
            self._handle_silence(way, now)
        else:
            self._say(way, wire.Refresh(channels))

    def _handle_silence(self, way: _Way, now: Instant) -> None:
        if way.is_tls:
            self._release()
            self._link.want_anew(now)
        self._lose(now)

    def _interval(self, way: _Way) -> float:
        wished_s = REFRESH_TLS_S if way.is_tls else self.interval_s
        return max(min(wished_s, way.life_s / 2), REFRESH_LEAST_S)

    def _say(self, way: _Way, message: wire.RelayMessage) -> None:
        self._ports.transmit(Transmit(way.address, wire.encode_relay_message(message)))
