"""Every order in which an original, a copy of it, lost answers, restarts, time and a far authority can come.

    o  the original asks for its next certificate, and hears the answer      r  the service is started anew
    l  it asks, dies before it hears, and starts again                       t  most of a certificate's life passes
    c  the copy asks, and hears the answer                                   s  a person signs what waits, elsewhere

Over the real service, each sequence from the beginning.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable

import pytest

from discovery.core.settings import DAY_S
from discovery.core.signatory import Away
from fabric.identity.certificate import decode_certificate
from fabric.wire.rendezvous import Renewed, Welcome
from tests.discovery.test_away import bring, signed
from tests.discovery.town import Resident, Town

STEP_S = 5 * DAY_S


class Story:
    """One sequence as it unfolds. `asked` has, for each certificate, the different requests to renew it."""

    def __init__(self, is_away: bool) -> None:
        self.town = Town()
        self.original = self.town.resident("ada")
        self.copy = Resident(self.town, "ada", self.original.seed, self.original.certificate)
        self.asked: dict[int, set[bytes]] = {}
        if is_away:
            self.town.signatory = Away(self.town.authority.root)
            self.restart()

    def tell(self, step: str) -> None:
        match step:
            case "o":
                self.ask(self.original)
            case "l":
                self.ask(self.original, is_heard=False)
            case "c":
                self.ask(self.copy)
            case "r":
                self.restart()
            case "t":
                self.town.now += STEP_S
                self.town.service.handle_timeout(self.town.now)
                self.town.drain()
            case "s":
                bring(self.town, signed(self.town))
        self.check()

    def restart(self) -> None:
        for resident in (self.original, self.copy):
            self.town.closed.add(resident.connection)
        self.town.start_service()
        self.town.drain()

    def ask(self, who: Resident, *, is_heard: bool = True) -> None:
        if who.connection == 0 or who.is_closed:
            who.say(who.proof(who.open()))
            if not any(isinstance(message, Welcome) for message in who.hear()) or who.is_closed:
                return
        age_s = self.town.unix - who.certificate.not_before
        who.renew()
        if age_s > STEP_S - DAY_S:
            self.asked.setdefault(who.certificate.serial, set()).add(who.kept[1])
        if not is_heard:
            who.disconnect()
            self.town.closed.add(who.connection)
            return
        for message in who.hear():
            if isinstance(message, Renewed):
                who.certificate = decode_certificate(message.certificate)

    def check(self) -> None:
        record = self.town.store.endpoint("ada.home")
        is_revoked = record is None or record.revoked is not None  # who was revoked is forgotten in the end
        is_doubled = any(len(requests) > 1 for requests in self.asked.values())
        assert is_revoked == is_doubled
        issued = list(self.town.store.certificates_of("ada.home"))
        followed = [each.predecessor for each in issued if each.predecessor is not None]
        assert len(followed) == len(set(followed))
        if is_revoked:
            assert all(each.revoked is not None for each in issued)
            assert self.town.store.order_of("ada.home") is None
            assert self.town.service.connected() == frozenset()


DEPTH = int(os.environ.get("FABRIC_CHAIN_DEPTH", "4"))
"""At 5 it is a matter of minutes."""


def told(sequence: Iterable[str], *, is_away: bool) -> bool:
    """Tells a story to its end; returns whether the copy was found in it."""
    story = Story(is_away)
    for number, step in enumerate(("t", *sequence)):
        try:
            story.tell(step)
        except AssertionError as error:
            raise AssertionError(f"t{''.join(sequence)}, step {number}: {error}") from error
    return any(len(requests) > 1 for requests in story.asked.values())


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "is_away"), [("olcrt", False), ("olcrts", True)])
def test_nobody_is_revoked_but_who_was_copied_and_who_was_copied_always_is(
    steps: str, is_away: bool, record_property: Callable[[str, object], None]
) -> None:
    found = [told(sequence, is_away=is_away) for sequence in itertools.product(steps, repeat=DEPTH)]
    assert sum(found) > len(found) / 10
    record_property("figure", f"renewals in every order, away: {is_away}: {len(found)} told, {sum(found)} copies found")


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "is_away"), [("olrt", False), ("olrts", True), ("olcrts", True)])
def test_nor_in_long_stories_made_by_chance(steps: str, is_away: bool) -> None:
    chance = random.Random(f"{steps}")
    for _ in range(150):
        told(chance.choices(steps, k=12), is_away=is_away)
