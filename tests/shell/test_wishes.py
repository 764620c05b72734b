"""Wishes for which no daemon is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabric.core.records import PeerRecord
from fabric.errors import ConfigurationError, DecodeError
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.keystore import Keystore
from fabric.shell.wishes import Verb, Wish, WishStore, make_wish
from tests.shell.homestead import found

FINGERPRINT = "abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return found(tmp_path).settle("alice")


def waiting(state: Path) -> list[Wish]:
    with WishStore(state) as store:
        return [wish for _, wish in store.waiting()]


def test_wishes_wait_in_the_order_in_which_they_were_made(state: Path) -> None:
    make_wish(state, Verb.ADD, "bob")
    make_wish(state, Verb.DISABLE, "bob.home")
    make_wish(state, Verb.ADD, "carol", FINGERPRINT.upper().replace("-", " "))
    assert waiting(state) == [
        Wish(Verb.ADD, "bob.home"),
        Wish(Verb.DISABLE, "bob.home"),
        Wish(Verb.ADD, "carol.home", FINGERPRINT),
    ]


def test_a_wish_is_dropped_only_when_it_was_acted_on(state: Path) -> None:
    for peer in ("bob", "carol", "dora"):
        make_wish(state, Verb.ADD, peer)
    with WishStore(state) as store:
        store.drop(store.waiting()[1][0])
    assert waiting(state) == [Wish(Verb.ADD, "dora.home")]


@pytest.mark.parametrize("verb", [Verb.REMOVE, Verb.ENABLE, Verb.DISABLE])
def test_only_add_may_name_a_peer_first(state: Path, verb: Verb) -> None:
    with pytest.raises(CommandError) as raised:
        make_wish(state, verb, "bob")
    assert raised.value.code is ExitCode.NO_SUCH_THING
    assert not waiting(state)


def test_a_peer_that_the_daemon_knows_may_be_removed_once(state: Path) -> None:
    with Keystore(state, bytes(32), os.urandom) as store:
        store.change_records([PeerRecord(name="bob.home"), PeerRecord(name="gone.home", enabled=False, removed=True)])
    make_wish(state, Verb.REMOVE, "bob")
    for peer in ("bob", "gone"):
        with pytest.raises(CommandError):
            make_wish(state, Verb.REMOVE, peer)
    make_wish(state, Verb.ADD, "bob")
    make_wish(state, Verb.DISABLE, "bob")


def test_trust_may_be_reset_of_a_peer_that_was_just_added_and_of_one_that_was_removed(state: Path) -> None:
    make_wish(state, Verb.ADD, "bob")
    make_wish(state, Verb.RESET_KEY, "bob")
    with Keystore(state, bytes(32), os.urandom) as keystore:
        keystore.change_records([PeerRecord(name="carol.home", enabled=False, past=True)])
    make_wish(state, Verb.RESET, "carol")
    assert [wish.verb for wish in waiting(state)] == [Verb.ADD, Verb.RESET_KEY, Verb.RESET]
    with pytest.raises(CommandError):
        make_wish(state, Verb.RESET, "dora")


def test_names_and_fingerprints_are_checked_before_they_are_stored(state: Path) -> None:
    for peer in ("-bob", "bob.elsewhere", "bob..home", ""):
        with pytest.raises(DecodeError):
            make_wish(state, Verb.ADD, peer)
    with pytest.raises(DecodeError):
        make_wish(state, Verb.ADD, "bob", "not a fingerprint")
    with pytest.raises(CommandError, match="itself"):
        make_wish(state, Verb.ADD, "alice")
    assert not waiting(state)


def test_a_host_that_is_not_enrolled_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fabric enrol"):
        make_wish(tmp_path, Verb.ADD, "bob")
