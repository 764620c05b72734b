"""What a custodian makes of any message: an answer, and nothing that comes in ends it or gets a key out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.sealing import seal_to
from fabric.crypto.signature import LABEL_GRANT, LABEL_HANDSHAKE_CLIENT, LABEL_ROTATION, verify
from fabric.custody import wire
from fabric.custody.at_rest import GENERATED_COST
from fabric.custody.identity_file import IDENTITY_FILE, Surroundings
from fabric.custody.keeper import Keeper
from fabric.custody.providers import passphrase
from fabric.custody.vault import SEALING_FILE, Vault
from fabric.errors import ConfigurationError, DecodeError
from fabric.identity.bundle import DAY_S, open_bundle
from fabric.identity.request import decode_request
from fabric.identity.rotation import Rotation, encode_rotation, open_rotation
from fabric.wire.envelope import EnvelopeHeader, EnvelopeKind, encode_header
from tests.shell.test_durable import Kernel, PowerLoss

NAME = "web-1.home"
NOW = 1_800_000_000.0
HASH = bytes(32)


@pytest.fixture(autouse=True)
def _light_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "PASSPHRASE_COST", GENERATED_COST)


def keeper(directory: Path) -> Keeper:
    return Keeper(lambda custody: Vault(Surroundings(directory, None, {}), custody))


def asked(kept: Keeper, question: wire.AnyQuestion, *, is_administrator: bool = False) -> wire.AnyAnswer:
    body = bytearray(wire.encode(question))
    message = wire.take_message(body)
    assert message is not None
    assert not body
    answer = bytearray(wire.encode(kept.answer_untrusted(message, is_administrator=is_administrator)))
    taken = wire.take_message(answer)
    assert taken is not None
    return wire.decode_answer(taken)


def done(kept: Keeper, question: wire.AnyQuestion, *, is_administrator: bool = False) -> bytes:
    answer = asked(kept, question, is_administrator=is_administrator)
    assert isinstance(answer, wire.Done), answer
    return answer.value


def begun(kept: Keeper, name: str = NAME) -> wire.Begun:
    answer = asked(kept, wire.Begin(name))
    assert isinstance(answer, wire.Begun), answer
    return answer


def why_refused(kept: Keeper, question: wire.AnyQuestion) -> wire.Refused:
    answer = asked(kept, question)
    assert isinstance(answer, wire.Refused), answer
    return answer


def test_all_that_an_endpoint_needs_is_done(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    who = begun(kept)
    assert (who.custody, who.bundle, len(who.storage_key)) == ("key-file", b"", 32)
    verify(
        who.public_key,
        LABEL_HANDSHAKE_CLIENT,
        done(kept, wire.Sign(LABEL_HANDSHAKE_CLIENT, (HASH, HASH))),
        *(HASH,) * 2,
    )
    assert decode_request(done(kept, wire.Request(NAME, b"n" * 16))).public_key == who.public_key
    bundle = open_bundle(done(kept, wire.NextBundle(NOW, 6)), who.public_key)
    assert (bundle.name, bundle.serial) == (NAME, 7)
    for kind, key in ((EnvelopeKind.OFFER, bundle.offer_key), (EnvelopeKind.MESSAGE, bundle.mail_key)):
        header = encode_header(EnvelopeHeader(kind, "home", bytes(32), NAME, bytes(16), 7, NOW, 60, 4))
        assert done(kept, wire.Open(seal_to(key, header, b"content key"), header)) == b"content key"
    assert done(kept, wire.Forget(NOW + DAY_S)) == b""
    assert kept.refused == 0


def test_nothing_is_done_before_somebody_began(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    for question in (wire.Sign(LABEL_HANDSHAKE_CLIENT, (HASH, HASH)), wire.NextBundle(NOW), wire.Move("file")):
        assert why_refused(kept, question).kind == "policy"
    assert kept.refused == 3
    assert not list(tmp_path.iterdir())


def test_what_is_refused_moves_one_counter_and_says_why(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    begun(kept)
    stored = content_of(tmp_path)
    refusals = {
        why_refused(kept, wire.Sign(LABEL_GRANT, (HASH,))).kind,
        why_refused(kept, wire.Request("web-2")).kind,
        why_refused(kept, wire.Move("file")).kind,
    }
    assert refusals == {"policy"}
    assert why_refused(kept, wire.Begin("web-2.home")).kind == "configuration"
    assert why_refused(kept, wire.Open(bytes(1200), b"no header")).kind == "decode"
    header = encode_header(EnvelopeHeader(EnvelopeKind.OFFER, "home", bytes(32), NAME, bytes(16), 7, NOW, 60, 4))
    assert why_refused(kept, wire.Open(bytes(1200), header)).kind == "authentication"
    assert begun(kept).refused == 6
    assert content_of(tmp_path) == stored


def test_only_an_administrator_moves_an_identity(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    before = begun(kept)
    assert why_refused(kept, wire.Move("file")).kind == "policy"
    assert done(kept, wire.Move("file"), is_administrator=True) == b"key-file"
    assert begun(keeper(tmp_path)).public_key == before.public_key


def test_an_identity_that_is_open_is_not_said_to_be_in_a_custody_that_it_is_not_in(tmp_path: Path) -> None:
    begun(keeper(tmp_path))
    kept = keeper(tmp_path)
    kept.open_early()
    assert why_refused(kept, wire.Begin(NAME, "systemd")).kind == "configuration"
    assert isinstance(asked(kept, wire.Begin(NAME, "file")), wire.Begun)


def test_an_identity_that_a_person_took_away_is_not_used_from_memory(tmp_path: Path) -> None:
    """Else who enrols anew, after a theft, would do so with the stolen key."""
    kept = keeper(tmp_path)
    before = begun(kept)
    done(kept, wire.NextBundle(NOW))
    for path in tmp_path.iterdir():
        path.unlink()
    after = begun(kept, "web-2.home")
    assert after.public_key != before.public_key
    assert after.storage_key != before.storage_key
    assert begun(keeper(tmp_path), "web-2.home").public_key == after.public_key


def test_what_fails_early_is_told_to_who_begins(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_bytes(b"nonsense")
    kept = keeper(tmp_path)
    kept.open_early()
    assert "is damaged" in why_refused(kept, wire.Begin(NAME)).why
    assert kept.refused == 1


def test_bundles_come_back_from_the_disk_and_open_what_was_sealed_before(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    who = begun(kept)
    first = open_bundle(done(kept, wire.NextBundle(NOW)), who.public_key)
    second = done(kept, wire.NextBundle(NOW + 6 * DAY_S))
    again = keeper(tmp_path)
    assert begun(again).bundle == second
    header = encode_header(EnvelopeHeader(EnvelopeKind.OFFER, "home", bytes(32), NAME, bytes(16), 1, NOW, 60, 4))
    sealed = seal_to(first.offer_key, header, b"content key")
    assert done(again, wire.Open(sealed, header)) == b"content key"
    assert done(again, wire.Forget(NOW + 14 * DAY_S)) == b"\0"
    assert why_refused(keeper_after(tmp_path), wire.Open(sealed, header)).kind == "authentication"


def keeper_after(directory: Path) -> Keeper:
    kept = keeper(directory)
    begun(kept)
    return kept


def test_no_secret_lies_readable_in_the_files_or_in_any_answer(tmp_path: Path) -> None:
    vault = Vault(Surroundings(tmp_path, None, {}))
    kept = Keeper(lambda _: vault)
    who = begun(kept)
    answers = [wire.encode(asked(kept, question)) for question in (wire.NextBundle(NOW), wire.Request(NAME))]
    (held,) = vault.keys.held
    secrets = [held.offer.secret_bytes, held.mail.secret_bytes, vault._secrets.seed]
    for secret in secrets:
        assert secret not in b"".join((*content_of(tmp_path).values(), *answers, wire.encode(who)))
        assert repr(secret)[2:-1] not in repr((vault, who, vault.keys, vault._secrets))
    assert (tmp_path / SEALING_FILE).stat().st_mode & 0o777 == 0o600


def test_an_old_key_is_wiped_from_the_disk(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    begun(kept)
    done(kept, wire.NextBundle(NOW))
    old = os.open(tmp_path / SEALING_FILE, os.O_RDONLY)
    done(kept, wire.NextBundle(NOW + 6 * DAY_S))
    assert set(os.read(old, 65_536)) == {0}
    os.close(old)


@pytest.mark.parametrize("fatal", range(8))
def test_a_crash_while_a_bundle_is_made_loses_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    kept = keeper(tmp_path)
    begun(kept)
    first = done(kept, wire.NextBundle(NOW))
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        try:
            second = done(kept, wire.NextBundle(NOW + DAY_S))
        except PowerLoss:
            second = b""
    found = begun(keeper(tmp_path)).bundle
    assert found == second if second else found != b""
    assert open_bundle(found, begun(keeper(tmp_path)).public_key).serial >= 1
    assert first


def test_keys_that_can_not_be_read_count_as_lost(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    who = begun(kept)
    done(kept, wire.NextBundle(NOW))
    content = (tmp_path / SEALING_FILE).read_bytes()
    for damaged in (b"", content[:-1], content[:20] + b"?" + content[21:], bytes(len(content))):
        (tmp_path / SEALING_FILE).write_bytes(damaged)
        assert (begun(keeper(tmp_path)).bundle, begun(keeper(tmp_path)).public_key) == (b"", who.public_key)
        (tmp_path / SEALING_FILE).write_bytes(damaged)


def test_an_identity_that_does_not_open_is_told_to_whoever_asks_and_may_be_mended(tmp_path: Path) -> None:
    begun(keeper(tmp_path))
    content = (tmp_path / IDENTITY_FILE).read_bytes()
    (tmp_path / IDENTITY_FILE).write_bytes(b"nonsense")
    kept = keeper(tmp_path)
    refused = why_refused(kept, wire.Begin(NAME))
    assert refused.kind == "configuration"
    assert "is damaged" in refused.why
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    assert begun(kept).custody == "key-file"


# the next identity key


def test_the_identity_key_is_replaced_in_steps_that_may_be_repeated(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    before = begun(kept)
    bundle = open_bundle(done(kept, wire.NextBundle(NOW)), before.public_key)
    statement = done(kept, wire.Rotate(NOW))
    rotation = open_rotation(statement)
    assert (rotation.name, rotation.old_key) == (NAME, before.public_key)
    kept = keeper(tmp_path)
    assert begun(kept).public_key == before.public_key, "nothing else has changed yet"
    assert done(kept, wire.Rotate(NOW + 5)) == statement
    request = decode_request(done(kept, wire.Request(NAME, b"n" * 16, by_next=True)))
    assert request.public_key == rotation.new_key
    for _ in range(2):
        assert done(kept, wire.TakeOver(rotation.new_key)) == b""
    for each in (kept, keeper(tmp_path)):
        after = begun(each)
        assert (after.public_key, after.storage_key, after.bundle) == (rotation.new_key, before.storage_key, b"")
        header = encode_header(EnvelopeHeader(EnvelopeKind.OFFER, "home", bytes(32), NAME, bytes(16), 1, NOW, 60, 4))
        assert done(each, wire.Open(seal_to(bundle.offer_key, header, b"content key"), header)) == b"content key"
        assert decode_request(done(each, wire.Request(NAME))).public_key == rotation.new_key
    second = open_rotation(done(kept, wire.Rotate(NOW)))
    assert second.old_key == rotation.new_key
    assert done(kept, wire.TakeOver(second.new_key)) == b""
    assert begun(keeper(tmp_path)).public_key == second.new_key


def test_the_identity_key_is_handed_over_to_a_key_of_the_custodians_own_and_to_no_other(tmp_path: Path) -> None:
    """Else whoever takes over the daemon for a moment has the identity for ever."""
    kept = keeper(tmp_path)
    who = begun(kept)
    for question in (wire.TakeOver(bytes(32)), wire.Request(NAME, by_next=True)):
        assert why_refused(kept, question).kind == "policy"
    done(kept, wire.Rotate(NOW))
    assert why_refused(kept, wire.TakeOver(bytes(32))).kind == "policy"
    body = b"\1" + encode_rotation(Rotation("home", NAME, who.public_key, bytes(32), NOW))
    assert why_refused(kept, wire.Sign(LABEL_ROTATION, (body,))).kind == "policy"
    assert begun(kept).public_key == who.public_key


@pytest.mark.parametrize("fatal", range(14))
def test_a_crash_while_the_next_key_takes_over_leaves_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    kept = keeper(tmp_path)
    before = begun(kept).public_key
    after = open_rotation(done(kept, wire.Rotate(NOW))).new_key
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        with contextlib.suppress(PowerLoss):
            done(kept, wire.TakeOver(after))
    again = keeper(tmp_path)
    assert begun(again).public_key in (before, after)
    assert done(again, wire.TakeOver(after)) == b""
    assert begun(keeper(tmp_path)).public_key == after


def test_the_old_seed_is_gone_from_the_disk_and_the_move_keeps_the_new_one(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    begun(kept)
    old = os.open(tmp_path / IDENTITY_FILE, os.O_RDONLY)
    after = open_rotation(done(kept, wire.Rotate(NOW))).new_key
    done(kept, wire.TakeOver(after))
    assert set(os.read(old, 4096)) == {0}
    os.close(old)
    assert done(kept, wire.Move("file"), is_administrator=True) == b"key-file"
    assert begun(keeper(tmp_path)).public_key == after


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# the wire


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    kept = keeper(tmp_path_factory.mktemp("busy"))
    begun(kept)
    yield kept
    assert begun(kept).custody == "key-file", "it lives, whatever came in"


@given(body=st.binary(max_size=400))
def test_any_bytes_are_answered(busy: Keeper, body: bytes) -> None:
    answer = busy.answer_untrusted(body, is_administrator=False)
    assert isinstance(answer, wire.Refused | wire.Done | wire.Begun)


KINDS = [kind.__name__ for kind in (wire.Begin, wire.Sign, wire.Open, wire.Request, wire.NextBundle, wire.Forget)]
VALUES = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
)


@given(kind=st.sampled_from([*KINDS, "Move", "Done", "Nonsense"]), fields=st.lists(VALUES, max_size=4))
def test_any_fields_in_any_question_are_answered(busy: Keeper, kind: str, fields: list[object]) -> None:
    busy.answer_untrusted(msgspec.msgpack.encode([kind, *fields]), is_administrator=False)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_a_decode_error(data: bytes) -> None:
    for decode in (wire.decode_question, wire.decode_answer):
        with contextlib.suppress(DecodeError):
            decode(data)


def test_messages_come_out_whole_however_they_are_cut() -> None:
    sent: list[wire.AnyQuestion] = [wire.Sign(b"label", (b"a", b"bc")), wire.Begin(NAME), wire.Forget(1.5)]
    stream = b"".join(wire.encode(each) for each in sent)
    for size in (1, 3, 7, len(stream)):
        buffer, got = bytearray(), []
        for at in range(0, len(stream), size):
            buffer += stream[at : at + size]
            while (body := wire.take_message(buffer)) is not None:
                got.append(wire.decode_question(body))
        assert got == sent


def test_a_message_that_says_it_is_too_long_is_not_waited_for() -> None:
    with pytest.raises(DecodeError):
        wire.take_message(bytearray((wire.MAX_MESSAGE_BYTES + 1).to_bytes(4)))
    with pytest.raises(DecodeError):
        wire.decode_question(msgspec.msgpack.encode(["Sign", b"label", [bytes(8193)]]))
    with pytest.raises(DecodeError):
        wire.decode_question(msgspec.msgpack.encode(["Sign", b"label", [b""] * 9]))


def test_the_longest_statement_fits_in_a_message() -> None:
    question = wire.Sign(b"fabric/1 envelope", (bytes(600), bytes(8192)))
    assert len(wire.encode(question)) < wire.MAX_MESSAGE_BYTES
    assert wire.take_message(bytearray(wire.encode(question)))


def test_a_vault_says_what_is_wrong_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Vault(Surroundings(tmp_path, tmp_path / "nowhere", {}))
