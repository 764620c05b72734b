"""The exit codes that scripts may rely on, and the failures that carry one."""

from __future__ import annotations

import enum

from fabric.errors import ConfigurationError, FabricError


class ExitCode(enum.IntEnum):
    """0 and 2 as everywhere; 78 is EX_CONFIG of sysexits.h, which systemd can be told not to restart on."""

    DONE = 0
    NOT_SO = 1
    WRONG_USAGE = 2
    NOT_PERMITTED = 3
    NO_SUCH_THING = 4
    UNREACHABLE = 5
    WRONG_CONFIGURATION = 78


class CommandError(FabricError):
    """What a person asked for did not happen. The message is one sentence: what, to what, why, what to do."""

    def __init__(self, code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def exit_code_of(error: BaseException) -> ExitCode:
    """Returns what a program that ends by `error` exits with."""
    match error:
        case CommandError(code=code):
            return code
        case ConfigurationError():
            return ExitCode.WRONG_CONFIGURATION
        case PermissionError():
            return ExitCode.NOT_PERMITTED
        case _:
            return ExitCode.NOT_SO


def sentence_of(error: BaseException) -> str:
    """Returns `error` as one line for a person."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
