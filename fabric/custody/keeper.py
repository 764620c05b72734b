"""Answers what daemons ask of a vault: one message in, one out, and nothing that comes in ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from fabric.custody import wire
from fabric.custody.identity_file import AUTO
from fabric.custody.vault import Vault
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError, FabricError, PolicyError


class Keeper:
    """`open_vault` takes what custody is wished for, and is called once, when somebody begins.

    So a custodian runs before there is an identity, and one that can't open its own says why to whoever asks.
    """

    def __init__(self, open_vault: Callable[[str], Vault]) -> None:
        self._open_vault = open_vault
        self._vault: Vault | None = None
        self.refused = 0
        """Questions that were answered by a refusal."""

    def open_early(self) -> None:
        """Opens an identity that was made before, so that nobody waits for it; what fails is told to who begins."""
        with suppress(FabricError, OSError):
            self._vault = self._open_vault(AUTO)

    def answer_untrusted(self, body: bytes, *, is_administrator: bool) -> wire.AnyAnswer:
        """Returns the answer to one message, whatever it is."""
        try:
            return self._answer(wire.decode_question(body), is_administrator=is_administrator)
        except (FabricError, OSError) as error:
            self.refused += 1
            return wire.Refused(_kind_of(error), str(error)[:1024])

    def _answer(self, question: wire.AnyQuestion, *, is_administrator: bool) -> wire.AnyAnswer:
        vault = self._vault
        if vault is None or isinstance(question, wire.Begin):
            return self._begin(question)
        match question:
            case wire.Sign(label=label, fields=fields):
                value = vault.sign(label, *fields)
            case wire.Open(sealed=sealed, info=info):
                value = vault.open(sealed, info)
            case wire.Request(name=name, nonce=nonce, by_next=by_next):
                value = vault.make_request(name, nonce, by_next=by_next)
            case wire.Rotate(unix=unix):
                value = vault.rotate(vault.name, unix)
            case wire.TakeOver(public_key=public_key):
                value = vault.take_over(public_key).encode()
            case wire.NextBundle(unix=unix, above=above):
                value = vault.next_bundle(vault.name, unix, above)
            case wire.Forget(unix=unix):
                value = bytes(vault.forget_secrets(unix))
            case wire.Move(custody=custody):
                value = _moved(vault, custody, is_administrator=is_administrator)
        return wire.Done(value)

    def _begin(self, question: wire.AnyQuestion) -> wire.Begun:
        if not isinstance(question, wire.Begin):
            raise PolicyError("nobody has begun")
        if self._vault is not None and not self._vault.is_current():
            self._vault = None
        if self._vault is None:
            self._vault = self._open_vault(question.custody)
        vault = self._vault
        vault.check_custody(question.custody)
        if question.name:
            try:
                vault.begin(question.name)
            except PolicyError as error:  # which no retry mends
                raise ConfigurationError(str(error)) from None
        return wire.Begun(vault.public_key, vault.storage_key, vault.custody, vault.bundle or b"", self.refused)


def _moved(vault: Vault, custody: str, *, is_administrator: bool) -> bytes:
    if not is_administrator:
        raise PolicyError("only root, or the custodian's own user, may move an identity to another custody")
    vault.move(custody)
    return vault.custody.encode()


def _kind_of(error: FabricError | OSError) -> wire.Kind:
    match error:
        case DecodeError():
            return "decode"
        case AuthenticationError():
            return "authentication"
        case PolicyError():
            return "policy"
        case ConfigurationError() | OSError():
            return "configuration"
    return "policy"
