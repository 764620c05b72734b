"""Log lines for journal and terminal: a sentence, then values as fields.

    service connected  address=192.0.2.10:443

Machines emit events and never log. No key, token or frame byte at any level; addresses of people's networks at
`debug` only.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Log:
    """`log.info("service connected", address=address)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, sentence: str, **fields: object) -> None:
        self._write(logging.DEBUG, sentence, fields)

    def info(self, sentence: str, **fields: object) -> None:
        self._write(logging.INFO, sentence, fields)

    def warning(self, sentence: str, **fields: object) -> None:
        self._write(logging.WARNING, sentence, fields)

    def error(self, sentence: str, **fields: object) -> None:
        self._write(logging.ERROR, sentence, fields)

    def _write(self, level: int, sentence: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", sentence + _joined(fields))


def start_log(level: str, stream: TextIO | None = None, *, is_journal: bool | None = None) -> None:
    """Sends all lines of at least `level` to `stream` (stderr); for the journal, with their priority (sd-daemon(3))."""
    handler = logging.StreamHandler(stream or sys.stderr)
    for_journal = "JOURNAL_STREAM" in os.environ if is_journal is None else is_journal
    handler.setFormatter(_JournalFormatter() if for_journal else _TerminalFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # other people's libraries
    for name in ("fabric", "discovery"):
        logging.getLogger(name).setLevel(level.upper())


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class _TerminalFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%H:%M:%S")


def _joined(fields: dict[str, object]) -> str:
    shown = (f"{key}={_shown(value)}" for key, value in fields.items())
    return "".join(f"  {field}" for field in shown)


def _shown(value: object) -> str:
    """Returns one word, or a quoted text: what others sent must not forge a line."""
    text = str(value)
    is_plain = text.isprintable() and text and not any(letter in text for letter in ' "=')
    return text if is_plain else ascii(text)
