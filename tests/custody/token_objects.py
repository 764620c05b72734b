"""What lies in the SoftHSM2 token "card", as a program with the PIN sees it; power that fails at the token's steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from fabric.shell.keystore import Keystore
from tests.custody.hardware import PIN, end_library, softhsm_library
from tests.shell.test_durable import Kernel, PowerLoss

if TYPE_CHECKING:
    import pkcs11

PRIVATE, PUBLIC = "PRIVATE_KEY", "PUBLIC_KEY"


def writable_session() -> pkcs11.Session:
    """A session of a program that knows the PIN, on the token "card"."""
    import pkcs11

    token = pkcs11.lib(str(softhsm_library())).get_token(token_label="card")
    try:
        return token.open(rw=True, user_pin=PIN)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open(rw=True)


def objects(key: str) -> list[tuple[str, str, pkcs11.Object]]:
    """Returns what the token has of key pairs whose label begins so: kind, label and the object."""
    import pkcs11

    session = writable_session()
    kinds = {PRIVATE: pkcs11.ObjectClass.PRIVATE_KEY, PUBLIC: pkcs11.ObjectClass.PUBLIC_KEY}
    found = [
        (name, each.label, each)
        for name, kind in kinds.items()
        for each in session.get_objects({pkcs11.Attribute.CLASS: kind})
    ]
    return sorted((each for each in found if each[1].split(" ")[0] == key), key=lambda each: each[:2])


def labels(key: str) -> list[tuple[str, str]]:
    return [(kind, label) for kind, label, _ in objects(key)]


def require_one_pair(key: str) -> str:
    """Returns the label of the only pair."""
    (private, label), (public, same) = labels(key)
    assert (private, public, same) == (PRIVATE, PUBLIC, label)
    return label


class Steps(Kernel):
    """The steps of a token too: a pair is made, a pair is destroyed; and of the daemon's database, where a fact is
    noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fatal: int | None = None) -> None:
        from fabric.custody.providers import pkcs11_session

        super().__init__(monkeypatch, fatal)
        for name in ("generate_pair", "destroy_pair"):
            monkeypatch.setattr(pkcs11_session, name, self._counted(name, getattr(pkcs11_session, name)))
        monkeypatch.setattr(Keystore, "note_fact", self._counted("note_fact", Keystore.note_fact))


def powers_fail(act: Callable[..., Any], *arguments: object, fatal: int) -> tuple[bool, list[str]]:
    """Loses power before step `fatal`; returns whether it came to that, and the steps until then."""
    with pytest.MonkeyPatch.context() as patched:
        steps = Steps(patched, fatal)
        try:
            act(*arguments)
        except PowerLoss:
            return True, steps.steps
        finally:
            end_library()
    return False, steps.steps
