"""Another identity key for one that lies in a token: made there, certified, in force, and the one before destroyed.

SoftHSM2 is the token. Power is lost before each step that lasts: of a file, and of the token.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, verify
from fabric.custody.identity_file import Surroundings
from fabric.custody.providers.pkcs11 import open_provider
from fabric.custody.vault import Vault
from fabric.errors import ConfigurationError, PolicyError
from fabric.identity.request import decode_request
from fabric.identity.rotation import open_rotation
from fabric.shell.custody import Child, RemoteCustodian, open_custody
from tests.custody.hardware import SoftTokens, end_library, loaded_tokens, needs, why_no_token
from tests.custody.token_objects import PRIVATE, PUBLIC, labels, objects, powers_fail, require_one_pair

pytestmark = needs(why_no_token())

NAME = "web-1.home"
NOW = 1_800_000_000.0
HASHES = (b"t" * 32, b"c" * 32)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTokens]:
    with loaded_tokens(tmp_path_factory.mktemp("softhsm"), "card", "other") as made:
        yield made


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return state_in(tmp_path, "state")


def state_in(directory: Path, name: str) -> Surroundings:
    (directory / name).mkdir()
    return Surroundings(directory / name, None, {})


def require_at_work(vault: Vault | RemoteCustodian, public_key: bytes) -> None:
    """It signs with this key, and asks for a certificate of it."""
    signature = vault.sign(LABEL_HANDSHAKE_CLIENT, *HASHES)
    verify(public_key, LABEL_HANDSHAKE_CLIENT, signature, *HASHES)
    assert vault.public_key == decode_request(vault.make_request(NAME, b"n" * 16)).public_key == public_key


def asked_for_next(vault: Vault | RemoteCustodian) -> bytes:
    return decode_request(vault.make_request(NAME, b"n" * 16, by_next=True)).public_key


# the way of it


def test_the_next_key_is_made_in_the_token_and_the_one_before_is_gone_from_it(
    tokens: SoftTokens, around: Surroundings
) -> None:
    vault = Vault(around, tokens.uri("card", "web"))
    vault.next_bundle(NAME, NOW)
    before = vault.public_key
    rotation = open_rotation(vault.rotate(NAME, NOW))
    assert (rotation.old_key, rotation.name) == (before, NAME)
    assert asked_for_next(vault) == rotation.new_key != before
    require_at_work(vault, before)
    assert len(labels("web")) == 4, "both are there while both are needed"
    assert vault.take_over(rotation.new_key) == ""
    assert vault.bundle is None
    require_at_work(vault, rotation.new_key)
    assert require_one_pair("web") != "web"
    back = Vault(around)
    assert (back.custody, back.storage_key, back.name) == ("pkcs11", vault.storage_key, NAME)
    require_at_work(back, rotation.new_key)


def test_each_key_has_a_next_one(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("card", "often"))
    seen, names = [vault.public_key], ["often"]
    for _ in range(3):
        rotation = open_rotation(vault.rotate(NAME, NOW))
        assert rotation.old_key == seen[-1]
        vault.take_over(rotation.new_key)
        vault = Vault(around)
        require_at_work(vault, rotation.new_key)
        seen.append(rotation.new_key)
        names.append(require_one_pair("often"))
    assert len(set(seen)) == len(set(names)) == 4


def test_what_was_begun_goes_on_after_a_restart_with_the_same_words(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("card", "goes-on"))
    statement = vault.rotate(NAME, NOW)
    again = Vault(around)
    assert again.rotate(NAME, NOW + 5) == statement
    assert asked_for_next(again) == asked_for_next(vault) == open_rotation(statement).new_key
    require_at_work(again, vault.public_key)
    with pytest.raises(PolicyError, match="not the next identity key"):
        again.take_over(bytes(32))


def test_the_next_key_can_not_be_taken_out_of_the_token(tokens: SoftTokens, around: Surroundings) -> None:
    import pkcs11

    Vault(around, tokens.uri("card", "locked")).rotate(NAME, NOW)
    made = [each for kind, label, each in objects("locked") if kind == PRIVATE and label != "locked"]
    assert len(made) == 1
    with pytest.raises(pkcs11.AttributeSensitive):
        made[0][pkcs11.Attribute.VALUE]
    assert made[0][pkcs11.Attribute.NEVER_EXTRACTABLE]


def test_the_process_that_holds_the_keys_changes_them_in_the_token(tokens: SoftTokens, around: Surroundings) -> None:
    with open_custody(
        Child(around.directory, None, os.environ), name=NAME, custody=tokens.uri("card", "child")
    ) as custodian:
        custodian.next_bundle(NAME, NOW)
        new = open_rotation(custodian.rotate(NAME, NOW)).new_key
        assert asked_for_next(custodian) == new
        assert custodian.take_over(new) == ""
        assert custodian.bundle is None
        require_at_work(custodian, new)
    with open_custody(Child(around.directory, None, os.environ), name=NAME) as custodian:
        require_at_work(custodian, new)


def test_two_identities_in_one_token_do_not_meet(tokens: SoftTokens, tmp_path: Path) -> None:
    """Even where one takes the name that the other left."""
    one = Vault(state_in(tmp_path, "one"), tokens.uri("card", "shared"))
    one.take_over(open_rotation(one.rotate(NAME, NOW)).new_key)
    other = Vault(state_in(tmp_path, "other"), tokens.uri("card", "shared"))
    statements = [open_rotation(each.rotate(NAME, NOW)) for each in (one, other)]
    assert len({key for each in statements for key in (each.old_key, each.new_key)}) == 4
    for vault, rotation in zip((one, other), statements, strict=True):
        vault.take_over(rotation.new_key)
        require_at_work(vault, rotation.new_key)
    require_at_work(one, statements[0].new_key)
    assert len(labels("shared")) == 4


def test_a_backup_from_before_names_the_key_that_is_gone(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("card", "backup"))
    new = open_rotation(vault.rotate(NAME, NOW)).new_key
    backup = {path: path.read_bytes() for path in around.directory.iterdir()}
    vault.take_over(new)
    current = {path: path.read_bytes() for path in around.directory.iterdir()}
    for path, content in backup.items():
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="token 'card' has no keys 'backup' where one is wanted"):
        Vault(around)
    for path, content in current.items():
        path.write_bytes(content)
    require_at_work(Vault(around), new)


# crashes


@pytest.mark.slow
def test_power_lost_at_any_step_of_making_the_next_key_leaves_no_key_behind(tokens: SoftTokens, tmp_path: Path) -> None:
    seen: set[str] = set()
    for fatal in count():
        key = f"made-{fatal}"
        around = state_in(tmp_path, key)
        vault = Vault(around, tokens.uri("card", key))
        before = vault.public_key
        lost, steps = powers_fail(vault.rotate, NAME, NOW, fatal=fatal)
        seen.update(steps)
        orphans = [label for kind, label in labels(key) if kind == PRIVATE and label != key]
        assert len(orphans) == steps.count("generate_pair")
        again = Vault(around)
        require_at_work(again, before) if again.name else again.begin(NAME)
        new = open_rotation(again.rotate(NAME, NOW + 60)).new_key
        assert len(labels(key)) == 4
        again.take_over(new)
        require_at_work(Vault(around), new)
        label = require_one_pair(key)
        assert orphans in ([], [label]), "what was made before the crash is the key now"
        if not lost:
            break
    assert seen == {"write", "fsync", "replace", "generate_pair"}


@pytest.mark.slow
def test_power_lost_at_any_step_of_the_take_over_leaves_one_of_the_two_in_force(
    tokens: SoftTokens, tmp_path: Path
) -> None:
    seen: set[str] = set()
    for fatal in count():
        key = f"taken-{fatal}"
        around = state_in(tmp_path, key)
        vault = Vault(around, tokens.uri("card", key))
        before, new = vault.public_key, open_rotation(vault.rotate(NAME, NOW)).new_key
        lost, steps = powers_fail(vault.take_over, new, fatal=fatal)
        seen.update(steps)
        again = Vault(around)
        assert again.public_key in (before, new)
        require_at_work(again, again.public_key)
        assert again.take_over(new) == ""
        require_at_work(again, new)
        require_one_pair(key)
        assert open_rotation(Vault(around).rotate(NAME, NOW + 60)).old_key == new
        if not lost:
            break
    assert seen == {"write", "fsync", "replace", "destroy_pair"}


@pytest.mark.parametrize("kind", [PRIVATE, PUBLIC])
def test_half_of_a_pair_that_a_crash_left_is_replaced(tokens: SoftTokens, tmp_path: Path, kind: str) -> None:
    key = f"half-{kind}"
    around = state_in(tmp_path, key)
    vault = Vault(around, tokens.uri("card", key))
    vault.begin(NAME)
    lost, steps = powers_fail(vault.rotate, NAME, NOW, fatal=1)
    assert (lost, steps) == (True, ["generate_pair"])
    for found, label, each in objects(key):
        if (found, label != key) == (kind, True):
            each.destroy()
    assert len(labels(key)) == 3
    new = open_rotation(Vault(around).rotate(NAME, NOW)).new_key
    Vault(around).take_over(new)
    require_at_work(Vault(around), new)
    require_one_pair(key)


def test_half_of_the_old_pair_that_a_crash_left_goes_too(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("card", "rest"))
    new = open_rotation(vault.rotate(NAME, NOW)).new_key
    for kind, label, each in objects("rest"):
        if (kind, label) == (PRIVATE, "rest"):
            each.destroy()
    again = Vault(around)
    again.take_over(new)
    require_at_work(again, new)
    require_one_pair("rest")


@pytest.mark.slow
def test_a_custodian_that_is_killed_at_any_moment_of_it_ends_with_one_key(
    tokens: SoftTokens, around: Surroundings
) -> None:
    """Each question is asked again, of a new process, until it is answered."""
    way = Child(around.directory, None, os.environ)
    with open_custody(way, name=NAME, custody=tokens.uri("card", "killed")) as custodian:
        for after_ms in (0, 1, 2, 3, 4, 6, 8, 12):
            for ask in (
                lambda: custodian.rotate(NAME, NOW),
                lambda: custodian.take_over(asked_for_next(custodian)),
            ):
                killer = threading.Timer(after_ms / 1000, os.kill, (way.pid, signal.SIGKILL))
                killer.start()
                ask()
                killer.join()
            require_at_work(custodian, custodian.public_key)
            require_one_pair("killed")


# tokens that refuse


@contextmanager
def full_disk() -> Iterator[None]:
    """Nothing can be stored meanwhile by this process, nor by a library in it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_token_that_makes_no_further_key_says_so_and_the_present_one_stays(
    tokens: SoftTokens, around: Surroundings
) -> None:
    vault = Vault(around, tokens.uri("card", "refused"))
    vault.begin(NAME)
    with full_disk(), pytest.raises(ConfigurationError) as told:
        vault.rotate(NAME, NOW)
    assert re.fullmatch(
        r"the identity key stays as it is: token 'card' makes no key \(\w+\): make room in it, and let its user make"
        " some",
        str(told.value),
    ), told.value
    require_at_work(vault, vault.public_key)
    assert ("PRIVATE_KEY", "refused") in labels("refused")
    vault.take_over(open_rotation(vault.rotate(NAME, NOW)).new_key)
    assert require_one_pair("refused") != "refused"


def test_a_key_that_the_token_keeps_is_told_of_once_and_in_nobodys_way(
    tokens: SoftTokens, around: Surroundings
) -> None:
    import pkcs11

    vault = Vault(around, tokens.uri("card", "kept"))
    for _, _, each in objects("kept"):
        each.copy({pkcs11.Attribute.DESTROYABLE: False, pkcs11.Attribute.LABEL: "kept"})
        each.destroy()
    end_library()
    new = open_rotation(vault.rotate(NAME, NOW)).new_key
    assert vault.take_over(new) == (
        "the pkcs11 token keeps the identity key that was in use before: nothing asks for it any more"
    )
    assert vault.take_over(new) == Vault(around).take_over(new) == ""
    require_at_work(Vault(around), new)
    assert len(labels("kept")) == 4


def test_a_key_that_somebody_else_has_put_there_is_not_destroyed(tokens: SoftTokens, around: Surroundings) -> None:
    mine = open_provider(tokens.uri("card", "stranger"), around.directory)
    public_key = mine.make_key()
    assert mine.destroy_key(bytes(32))
    assert require_one_pair("stranger") == "stranger"
    assert mine.destroy_key(public_key)
    assert labels("stranger") == []
    assert mine.destroy_key(public_key)


def test_a_token_that_is_away_when_the_key_before_is_to_go_is_asked_again(
    tokens: SoftTokens, around: Surroundings
) -> None:
    vault = Vault(around, tokens.uri("card", "away"))
    new = open_rotation(vault.rotate(NAME, NOW)).new_key
    lost, steps = powers_fail(vault.take_over, new, fatal=5)
    assert (lost, steps) == (True, ["write", "fsync", "replace", "fsync", "fsync"])
    again = Vault(around)
    with tokens.unplugged(), pytest.raises(ConfigurationError):
        again.take_over(new)
    end_library()
    assert len(labels("away")) == 4
    assert again.take_over(new) == ""
    require_one_pair("away")
