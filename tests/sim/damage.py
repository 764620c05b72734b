"""What can be done to bytes on their way by whoever carries them."""

from __future__ import annotations

import random


def damaged(payload: bytes, chance: random.Random) -> bytes:
    """Returns it with a bit turned, cut short, or lengthened."""
    if not payload:
        return chance.randbytes(8)
    match chance.randrange(3):
        case 0:
            turned = bytearray(payload)
            turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
            return bytes(turned)
        case 1:
            return payload[: chance.randrange(len(payload))]
        case _:
            return payload + chance.randbytes(chance.randrange(1, 40))
