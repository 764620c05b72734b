"""Run by `test_blind_service.py` in the place of `discoveryd`: the same program, with an ear at what it is told.

Each message of a channel and each enrolment is appended to $FABRIC_EAR as it came out of TLS, before it is read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from discovery.cli.main import main
from discovery.shell import driver, http
from fabric.wire import rendezvous

T = TypeVar("T")

EAR = Path(os.environ["FABRIC_EAR"])


def heard(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    def hear(data: bytes) -> T:
        with EAR.open("ab") as ear:
            ear.write(data)
        return decode(data)

    return hear


# Functions are replaced, and where they are called: types know neither.
driver.decode_to_service = heard(rendezvous.decode_to_service)  # type: ignore[attr-defined,assignment]
http.decode_enrolment_request = heard(rendezvous.decode_enrolment_request)  # type: ignore[attr-defined,assignment]
sys.exit(main())
