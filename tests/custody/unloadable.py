"""A provider whose library is installed and can't be loaded: another Python's, or without what it is linked to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WHY = "it does not fit this Python"

_PROGRAM = """
import sys
from importlib import import_module
from pathlib import Path
from fabric.errors import ConfigurationError
provider = import_module("fabric.custody.providers." + sys.argv[1]).open_provider(sys.argv[2], Path())
print(provider.is_available())
try:
    provider.seal(b"secret")
except ConfigurationError as error:
    print(error)
"""


def said_without(library: str, name: str, place: str, scratch: Path) -> list[str]:
    """Returns whether the provider called `name` is available, and why it does not seal, as it prints them."""
    broken = scratch / "broken"
    broken.mkdir()
    (broken / f"{library}.py").write_text(f"raise ImportError({WHY!r})\n")
    run = [sys.executable, "-c", _PROGRAM, name, place]
    environment = {**os.environ, "PYTHONPATH": str(broken)}
    return subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
