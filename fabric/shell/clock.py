"""The clocks of a daemon: one that only goes forward and counts through suspend, and news of the wall clock."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable

import trio

from fabric.core.machine import Instant

TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
DRIFT_CHECK_S = 60.0
"""Slow corrections by NTP wake nobody; looking this often keeps the offset true to 30 ms (slew is 500 ppm)."""

_FAR_UNIX_S = 2**40


def now() -> Instant:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_offset() -> float:
    """Returns what to add to `now()` for unix seconds."""
    return time.time() - now()


def asleep_s() -> float:
    """Returns for how long this machine has been suspended in all."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_clock(handle_set: Callable[[], None]) -> None:
    """Calls `handle_set` whenever the wall clock was set, the machine woke from suspend, or some time has passed.

    timerfd_create(2): a timer on CLOCK_REALTIME with TFD_TIMER_CANCEL_ON_SET becomes readable, with ECANCELED, when
    the clock jumps; the kernel counts waking up as a jump.
    """
    descriptor = _make_timer()
    try:
        while True:
            _arm(descriptor)
            with trio.move_on_after(DRIFT_CHECK_S):
                await trio.lowlevel.wait_readable(descriptor)
                _read(descriptor)
            handle_set()
    finally:
        os.close(descriptor)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


def _make_timer() -> int:
    descriptor = int(_libc().timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        _raise()
    return descriptor


def _arm(descriptor: int) -> None:
    never = _Itimerspec(_Timespec(0, 0), _Timespec(_FAR_UNIX_S, 0))
    flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
    if (
        _libc().timerfd_settime(descriptor, flags, ctypes.byref(never), None) < 0
        and ctypes.get_errno() != errno.ECANCELED
    ):
        _raise()


def _read(descriptor: int) -> None:
    try:
        os.read(descriptor, 8)
    except OSError as error:
        if error.errno not in (errno.ECANCELED, errno.EAGAIN):
            raise


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _raise() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))
