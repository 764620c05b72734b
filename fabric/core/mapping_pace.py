"""How long one waits for a gateway, and how long one believes it: the times of RFC 6887 and RFC 6886."""

from __future__ import annotations

from fabric.core.machine import Draw, Instant
from fabric.core.mapping import Wish
from fabric.wire.pcp import Protocol

LIFETIME_S = 7200
"""RFC 6886 section 3.3 recommends it: short enough for a gateway to forget us, long enough to be asked rarely."""

MAX_LIFETIME_S = 86_400
"""RFC 6887 section 15: a gateway that grants more is asked again after a day all the same."""

PATIENCE_S = 1.0
"""For how long a round waits for one language: a gateway is a hop away, and the next one is there to be tried."""

RETRY_S, RETRY_LIMIT_S = 3.0, 1024.0
"""IRT and MRT of RFC 6887 section 8.1.1."""

NAT_PMP_RETRY_S = 0.25
"""RFC 6886 section 3.1: the first retransmission; each next one takes twice as long, up to the limit."""

RENEW_LEAST_S = 4.0
"""RFC 6887 section 11.2.1."""

REFUSED_LEAST_S, REFUSED_MOST_S = 30.0, 1800.0
"""Short and long lifetime of an error, RFC 6887 section 7.4: what a gateway may tell us to keep away."""

NEWS_DELAY_S = 5.0
"""RFC 6887 section 14.1.3: not all hosts of a LAN at once, after a gateway has told all of them of its restart."""

NEWS_INTERVAL_S = 10.0
"""News that can't be compared make us ask so often at most: anybody on the LAN can forge them."""

DOUBT_LEAST_S = 5.0
"""A mapping that was confirmed so lately is not doubted again."""

UPNP_RENEW_S = 600.0
"""UPnP tells nobody of a restart: a gateway that has lost the mapping has it again after so long, at most."""

UPNP_PATIENCE_S = 60.0
"""The shell bounds its own work by less; this is for a shell that never answers."""

NAT_PMP_RETRY_LIMIT_S = 64.0


class AskingPace:
    """Draws its own chances, so that the hosts of a LAN don't ask in step."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def retry_s(self, wish: Wish, language: Protocol, now: Instant) -> float:
        """Returns how long to wait for the answer to a question before asking it again."""
        if wish.stands and wish.is_settled:
            return self.renewal_s(wish, now)
        if language is Protocol.NAT_PMP:
            return min(NAT_PMP_RETRY_S * 2.0**wish.asked, NAT_PMP_RETRY_LIMIT_S)
        return self.backed_off_s(wish.asked)

    def renewal_s(self, wish: Wish, now: Instant) -> float:
        """RFC 6887 section 11.2.1: after half of what is left, and up to an eighth of it more."""
        return max(RENEW_LEAST_S, (wish.expires_at - now) * (0.5 + self._chance() / 8))

    def backed_off_s(self, tries: int) -> float:
        """RFC 6887 section 8.1.1: doubled each time, a tenth more or less."""
        return min(RETRY_S * 2.0 ** min(tries, 16), RETRY_LIMIT_S) * (0.9 + self._chance() / 5)

    def news_s(self) -> float:
        """Returns how long to wait after news that all hosts of the LAN have heard."""
        return self._chance() * NEWS_DELAY_S

    def _chance(self) -> float:
        return int.from_bytes(self._draw(2)) / 65_536
