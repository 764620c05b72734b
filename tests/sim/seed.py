"""Where chance comes from: a seed that is printed with every test and can be given back in FABRIC_SIM_SEED."""

from __future__ import annotations

import os
import random
import zlib

from fabric.core.machine import Draw

VARIABLE = "FABRIC_SIM_SEED"


def seed_of(test: str) -> int:
    """Returns the seed for a test: from the environment, or always the same one of its own."""
    given = os.environ.get(VARIABLE)
    seed = int(given) if given else zlib.crc32(test.encode())
    print(f"{VARIABLE}={seed}")
    return seed


def seeded_draw(chance: random.Random) -> Draw:
    """A source of bytes for machines that is the same in every run with the same seed."""
    return chance.randbytes
