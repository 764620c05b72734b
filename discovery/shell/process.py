"""The process around a daemon: signals, readiness, watchdog, open files."""

from __future__ import annotations

import resource
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

from fabric.shell.log import Log
from fabric.shell.notify import READY, STOPPING, keep_watchdog, notify

_log = Log("discovery.daemon")


def run_until_signal(serve: Callable[..., Awaitable[Any]], *arguments: object) -> None:
    """Runs `serve`, which tells its start through `task_status`, until SIGTERM or SIGINT.

    Raises what it raises; of several errors at once, one that a person can do something about.
    """
    _allow_many_files()
    try:
        trio.run(_serve_until_signal, serve, *arguments)
    except BaseExceptionGroup as errors:
        raise _cause(errors) from errors


async def _serve_until_signal(serve: Callable[..., Awaitable[Any]], *arguments: object) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, *arguments)
            notify(READY)
            nursery.start_soon(keep_watchdog)
            async for _ in signals:
                break
            notify(STOPPING)
            _log.info("stopping")
            nursery.cancel_scope.cancel()


def _cause(error: BaseException) -> BaseException:
    """Returns the one error that a person can do something about, out of the nurseries it came through."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _allow_many_files() -> None:
    """Each channel is a file: as many as the system lets this process have, if it lets itself be asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
