"""What this endpoint says to one peer of itself, and by whom: wishes and offers.

    an offer --session stands--> in the session, three times
             --else------------> sealed, through the service
             --service away----> sealed, through common peers

When something is due by itself, `Petition` and `Telling` decide; who can carry it, and whether it is worth saying, is
decided here.
"""

from __future__ import annotations

from collections import deque

from fabric.core.account import state_of
from fabric.core.acquaintance import Acquaintance
from fabric.core.keying import Keying
from fabric.core.machine import Instant
from fabric.core.path import PathAgent
from fabric.core.petition import Due, Petition
from fabric.core.status import PeerState
from fabric.core.surroundings import Surroundings
from fabric.core.telling import Telling
from fabric.wire.address import Candidate
from fabric.wire.nat import UNKNOWN_NAT, NatBehaviour
from fabric.wire.path import OfferUpdate, encode_control
from fabric.wire.rendezvous import ToService, WithdrawIntent


class Correspondence:
    """`candidates` and `nat` are what offers tell. Call `plan` after every change."""

    def __init__(
        self, around: Surroundings, papers: Acquaintance, keying: Keying, paths: PathAgent, *, is_service_up: bool
    ) -> None:
        self._around = around
        self._papers = papers
        self._keying = keying
        self._paths = paths
        self._petition = Petition(around.settings.intent_life_s)
        self._telling = Telling()
        self._told: tuple[tuple[Candidate, ...], NatBehaviour] | None = None
        self._messages: deque[ToService] = deque()
        self.candidates: tuple[Candidate, ...] = ()
        self.nat = UNKNOWN_NAT
        self.is_service_up = is_service_up

    @property
    def can_be_carried(self) -> bool:
        """Whether there is anybody to take an offer to the peer: the service, or a peer that may know both."""
        return self.is_service_up or self._around.can_pass_on(self._papers.name)

    def handle_local(self, candidates: tuple[Candidate, ...], nat: NatBehaviour) -> bool:
        """Returns whether offers have something new to tell."""
        was = (self.candidates, self.nat)
        self.candidates, self.nat = candidates, nat
        return was != (candidates, nat)

    def state_intent(self, now: Instant) -> None:
        self._messages.append(self._papers.state_intent(self._around.settings.intent_life_s, now))
        self._petition.note_stated(now)

    def withdraw(self) -> None:
        """The wish to meet the peer has ended."""
        self._messages.append(WithdrawIntent(self._papers.name))

    def offer(self, *, reply_wanted: bool, now: Instant) -> None:
        """Tells the peer where this endpoint is: inside the session where there is one, else through others."""
        papers = self._papers
        if not papers.record.enabled or papers.certificate is None or papers.void or not self.candidates:
            return
        primary = self._paths.primary
        if self._keying.live is not None and primary is not None and not self._keying.is_suspect:
            offer = papers.make_offer(self.candidates, self.nat, reply_wanted=False, now=now)
            self._tell(offer)
            self._telling.begin(offer, now)
            # What is said towards where the peer was reached from another network may never arrive.
            self._told = (self.candidates, self.nat) if primary.confirmed else None
        elif (
            self.can_be_carried
            and papers.bundle is not None
            and self._petition.may_offer(now, reply_wanted=reply_wanted)
        ):
            self._offer_through_others(reply_wanted, now)

    def offer_if_lost(self, now: Instant) -> None:
        """Where there is no session that can be trusted to be one, the peer's own offer is asked for as well."""
        is_connected = state_of(self._papers, self._keying, self._paths) is PeerState.CONNECTED
        if not is_connected or self._keying.is_suspect:
            self.offer(reply_wanted=True, now=now)

    def offer_if_untold(self, now: Instant) -> None:
        if self._told != (self.candidates, self.nat):
            self.offer(reply_wanted=False, now=now)

    def hurry(self) -> None:
        """Something has changed for the better, perhaps."""
        self._petition.hurry()

    def ask_anew(self) -> None:
        """The introduction that stands, or the own intent, may be of no use."""
        self._petition.ask_anew()

    def handle_live(self) -> None:
        """A session stands."""
        self._petition.handle_live()

    def forget_offers(self) -> None:
        """There is nobody to make them to."""
        self._telling.stop()
        self._petition.forget_offers()

    def stop(self) -> None:
        """The peer is not wished for any more."""
        self._petition.stop()

    def plan(self, now: Instant) -> None:
        if self.can_be_carried and self._papers.record.enabled:
            state = state_of(self._papers, self._keying, self._paths)
            self._petition.plan(state, now, is_service_up=self.is_service_up)
        else:
            self._petition.stop()

    def handle_timeout(self, now: Instant) -> None:
        told = self._telling.take_due(now)
        if told is not None:
            self._tell(told)
        for due in self._petition.take_due(now):
            match due:
                case Due.INTENT:
                    self.state_intent(now)
                case Due.OFFER:
                    self.offer_if_lost(now)
                case Due.REPLY:
                    self.offer(reply_wanted=False, now=now)

    def next_timeout(self) -> Instant | None:
        parts = (self._petition.next_timeout(), self._telling.next_timeout())
        return min((at for at in parts if at is not None), default=None)

    def poll_message(self) -> ToService | None:
        return self._messages.popleft() if self._messages else None

    def _tell(self, offer: bytes) -> None:
        live, primary = self._keying.live, self._paths.primary
        if live is not None and primary is not None:
            self._around.lane.send_control(live.local_index, encode_control(OfferUpdate(offer)), primary.address)

    def _offer_through_others(self, reply_wanted: bool, now: Instant) -> None:
        offer = self._papers.make_offer(self.candidates, self.nat, reply_wanted=reply_wanted, now=now)
        message = self._papers.seal_offer(offer, self._around.settings.offer_life_s, now)
        if message is not None:
            self._messages.append(message)
            self._told = None  # it may never arrive: the next session says it once more
        else:
            self._petition.ask_anew()  # the bundle that was introduced is too old to seal to
