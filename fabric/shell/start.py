"""The command line of `fabricd`. The daemon is loaded behind it, in the one way that is quick.

It reads five options by itself: typer takes a tenth of the time of a whole start.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fabric.shell.program import mistaken_use, run_command


def fabricd(arguments: Sequence[str] | None = None) -> None:
    """Runs the endpoint that the command line (`sys.argv`) names, until SIGTERM. Raises `FabricError`, `OSError`."""
    parser = _Parser(
        "fabricd",
        allow_abbrev=False,
        description="Run the endpoint of a virtual LAN, in the foreground, until SIGTERM.",
        epilog="Every option is also a line of DIR/config.toml, and FABRIC_ and its name in the environment.",
    )
    told = "Where the endpoint keeps everything; without it $FABRIC_STATE, or /var/lib/fabric."
    parser.add_argument("--state", type=Path, metavar="DIR", help=told)
    parser.add_argument("--device", metavar="NAME", help="Name of the overlay device.")
    parser.add_argument("--port", type=int, metavar="NUMBER", help="UDP and TCP port; 0 draws one.")
    parser.add_argument("--cipher", metavar="NAME", help="auto, aes-256-gcm or chacha20-poly1305.")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
    options = vars(parser.parse_args(arguments))
    _run(options.pop("state"), options)


def _run(state: Path | None, options: dict[str, object]) -> None:
    """Modules and classes stay for good: nobody looks for garbage among them, now or later."""
    gc.disable()
    from fabric.shell.config import DEFAULT_STATE, STATE_VARIABLE, load_config
    from fabric.shell.custody import way_to_custody

    state = state or Path(os.environ.get(STATE_VARIABLE) or DEFAULT_STATE)
    config = load_config(state, os.environ, options)
    way = way_to_custody(state, config, os.environ)  # the keys' own process loads while this one does
    try:
        from fabric.shell.daemon import serve

        gc.enable()
        gc.freeze()
        serve(state, config, way)
    finally:
        way.close()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise mistaken_use(self.prog, message)


def main() -> None:
    sys.exit(run_command(fabricd, "fabricd"))
