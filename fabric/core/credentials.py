"""The own certificate and key bundle: when each is to be replaced, and what is accepted in its place."""

from __future__ import annotations

import enum
from collections import deque

from fabric.core.events import BundleDue, CertificateReplaced, Event, IdentityReplaced, RenewalDue
from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Instant
from fabric.core.timers import Timers
from fabric.errors import CertificateError
from fabric.identity.bundle import peek_bundle

RENEWAL_SHARE = 2 / 3
"""Of a certificate's life, after which it is renewed (protocol.md section 2)."""

RETRY_SHARE = 1 / 60
"""Of the life, between attempts: the last third holds twenty of them."""

BUNDLE_MARGIN_S = 86400.0
"""A bundle is replaced a day before its offer key ends, so that no peer ever holds only a dead one."""

BUNDLE_RETRY_S = 60.0

BUNDLE_ANEW_S = 86400.0
"""A service may say that it knows a newer bundle as often as it likes: it gets one out of it in this time."""


class _Timer(enum.Enum):
    RENEW = enum.auto()
    BUNDLE = enum.auto()


class Credentials:
    """Replaces parts of `identity` in place, so that every next handshake shows what is current."""

    def __init__(self, identity: Identity, calendar: Calendar, now: Instant) -> None:
        self._identity = identity
        self._calendar = calendar
        self._timers: Timers[_Timer] = Timers()
        self._events: deque[Event] = deque()
        self._may_be_anew: Instant = now
        self.handle_clock_set(now)

    def handle_clock_set(self, now: Instant) -> None:
        certificate = self._identity.certificate
        due = certificate.not_before + RENEWAL_SHARE * (certificate.not_after - certificate.not_before)
        self._timers.set(_Timer.RENEW, self._calendar.instant(due))
        bundle = self._identity.bundle
        ends = peek_bundle(bundle).offer_expires - BUNDLE_MARGIN_S if bundle else self._calendar.unix(now)
        self._timers.set(_Timer.BUNDLE, self._calendar.instant(ends))

    def replace_bundle(self, bundle: bytes, now: Instant) -> None:
        self._identity.bundle = bundle
        self.handle_clock_set(now)

    def handle_bundle_refused(self, now: Instant) -> None:
        """The service has a newer bundle, whose keys are not here: what is here came from a backup, or another has the
        own key. Peers seal to that bundle until there is one that is newer still."""
        if now >= self._may_be_anew:
            self._may_be_anew = now + BUNDLE_ANEW_S
            self._timers.set(_Timer.BUNDLE, now)

    def handle_renewed_untrusted(self, der: bytes, now: Instant) -> bool:
        """Takes the next certificate into use where it is the own name, key and addresses with a later end.

        Raises `CertificateError` for one that is not from the authority; False where it is no step forward.
        """
        identity = self._identity
        unix = self._calendar.unix(now)
        renewed = identity.trust.check(der, name=identity.name, unix=unix, pinned_key=None)
        if renewed.public_key not in (identity.signer.public_key, identity.next_key):
            raise CertificateError("the renewed certificate is for another key")
        if renewed.addresses != identity.certificate.addresses:
            raise CertificateError("the renewed certificate has other addresses")
        if renewed.public_key == identity.next_key:
            self._events.append(IdentityReplaced(der))
            return False
        if renewed.not_after <= identity.certificate.not_after:
            return False
        identity.certificate = renewed
        self._events.append(CertificateReplaced(der))
        self.handle_clock_set(now)
        return True

    def handle_rotated(self, now: Instant) -> None:
        """The next key is the own one now: what the one before has signed is of no use any more."""
        self._identity.next_key = None
        self._identity.bundle = None
        self.handle_clock_set(now)

    def handle_timeout(self, now: Instant, *, is_service_up: bool) -> None:
        for timer in self._timers.take_due(now):
            match timer:
                case _Timer.RENEW:
                    if is_service_up:
                        self._events.append(RenewalDue())
                    certificate = self._identity.certificate
                    pause = RETRY_SHARE * (certificate.not_after - certificate.not_before)
                    self._timers.set(_Timer.RENEW, now + max(pause, 1.0))
                case _Timer.BUNDLE:
                    self._events.append(BundleDue())
                    self._timers.set(_Timer.BUNDLE, now + BUNDLE_RETRY_S)

    def next_timeout(self) -> Instant | None:
        return self._timers.next()

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None
