"""The identity key in a PKCS#11 token: python-pkcs11, and SoftHSM2 in the place of the device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fabric.crypto.signature import verify_raw
from fabric.custody.provider import Rank, Token
from fabric.custody.providers.pkcs11 import Pkcs11Token, open_provider
from fabric.errors import AuthenticationError, ConfigurationError
from fabric.identity.request import decode_request, make_request_with
from tests.custody.hardware import PIN, SoftTokens, loaded_tokens, needs, softhsm_library, why_no_token
from tests.custody.unloadable import WHY, said_without

pytestmark = needs(why_no_token())

SECRET = b"storage key and a seed ".ljust(64, b".")
NONCE = b"n" * 16


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTokens]:
    """One library a process, so one set of tokens for all tests: each takes a key of its own name in it."""
    with loaded_tokens(tmp_path_factory.mktemp("softhsm"), "first", "second", "guarded", "twin", "twin") as made:
        yield made


def _provider(tokens: SoftTokens, key: str, token: str = "first") -> Pkcs11Token:
    return open_provider(tokens.uri(token, key), tokens.directory)


def test_a_key_made_in_the_token_signs_as_everybody_else_verifies(tokens: SoftTokens) -> None:
    token: Token = _provider(tokens, "signs")
    assert isinstance(token, Token)
    assert (token.name, token.rank, token.place) == ("pkcs11", Rank.TOKEN, tokens.uri("first", "signs"))
    public_key = token.make_key()
    assert token.public_key() == public_key
    for message in (b"", b"message", bytes(5000)):
        signature = token.sign_raw(message)
        assert len(signature) == 64
        verify_raw(public_key, signature, message)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)


def test_two_keys_are_two_keys(tokens: SoftTokens) -> None:
    one, other = _provider(tokens, "one"), _provider(tokens, "other")
    assert one.make_key() != other.make_key()
    with pytest.raises(AuthenticationError):
        verify_raw(other.public_key(), one.sign_raw(b"message"), b"message")


def test_the_key_can_not_be_taken_out_of_the_token(tokens: SoftTokens) -> None:
    import pkcs11
    from pkcs11 import Attribute, ObjectClass

    provider = _provider(tokens, "stays")
    provider.make_key()
    provider.seal(SECRET)
    token = pkcs11.lib(str(softhsm_library())).get_token(token_label="first")
    session = token.open()
    kinds = {ObjectClass.PRIVATE_KEY: "stays", ObjectClass.SECRET_KEY: "stays storage"}
    for kind, label in kinds.items():
        (key,) = list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))
        with pytest.raises(pkcs11.AttributeSensitive):
            key[Attribute.VALUE]
        assert key[Attribute.SENSITIVE]
        assert key[Attribute.NEVER_EXTRACTABLE]
        assert key[Attribute.LOCAL]
        with pytest.raises(pkcs11.PKCS11Error):
            key[Attribute.EXTRACTABLE] = True


def test_the_key_is_there_in_another_process(tokens: SoftTokens) -> None:
    here = _provider(tokens, "stored").make_key()
    program = (
        "import sys; from pathlib import Path; from fabric.custody.providers.pkcs11 import open_provider;"
        "token = open_provider(sys.argv[1], Path()); print(token.public_key().hex(), token.sign_raw(b'm').hex())"
    )
    run = [sys.executable, "-c", program, tokens.uri("first", "stored")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert bytes.fromhex(printed[0]) == here
    verify_raw(here, bytes.fromhex(printed[1]), b"m")


def test_a_key_is_never_replaced(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "once")
    public_key = provider.make_key()
    with pytest.raises(ConfigurationError, match="already has a key 'once'"):
        _provider(tokens, "once").make_key()
    verify_raw(public_key, provider.sign_raw(b"message"), b"message")


def test_a_key_that_was_never_made_is_missed_by_its_name(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "none")
    with pytest.raises(ConfigurationError, match=r"token 'first' has no keys 'none'"):
        provider.public_key()
    with pytest.raises(ConfigurationError, match=r"token 'first' has no keys 'none'"):
        provider.sign_raw(b"")


def test_the_certificate_request_of_a_key_in_a_token_is_accepted(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "requests")
    public_key = provider.make_key()
    request = decode_request(make_request_with(public_key, provider.sign_raw, "web-1.home", NONCE))
    assert (request.name, request.public_key) == ("web-1.home", public_key)


def test_what_is_sealed_opens_with_the_same_token_only(tokens: SoftTokens) -> None:
    blob = _provider(tokens, "seals").seal(SECRET)
    assert SECRET[:8] not in blob
    assert _provider(tokens, "seals").unseal(blob) == SECRET
    stranger = _provider(tokens, "seals", "second")
    with pytest.raises(ConfigurationError, match="has no keys 'seals storage'"):
        stranger.unseal(blob)
    stranger.seal(SECRET)
    with pytest.raises(ConfigurationError, match="another token"):
        stranger.unseal(blob)


def test_secrets_of_any_length_come_back_and_share_one_key(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "lengths")
    blobs = {length: provider.seal(bytes(length)) for length in (0, 64, 4096)}
    for length, blob in blobs.items():
        assert _provider(tokens, "lengths").unseal(blob) == bytes(length)


def test_bytes_turned_in_the_blob_are_noticed(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "turned")
    blob = provider.seal(SECRET)
    for at in range(len(blob)):
        with pytest.raises(ConfigurationError):
            provider.unseal(blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :])
    assert provider.unseal(blob) == SECRET


def test_a_session_that_ended_is_opened_again(tokens: SoftTokens) -> None:
    """Whoever starts the library anew ends all sessions of the program."""
    import pkcs11

    provider = _provider(tokens, "again")
    public_key = provider.make_key()
    blob = provider.seal(SECRET)
    library = pkcs11.lib(str(softhsm_library()))
    for _ in range(2):
        library.finalize()
        library.initialize()
        verify_raw(public_key, provider.sign_raw(b"message"), b"message")
        assert provider.unseal(blob) == SECRET


def test_a_token_that_was_unplugged_signs_when_it_is_back(tokens: SoftTokens) -> None:
    provider = _provider(tokens, "unplugged")
    public_key = provider.make_key()
    provider.sign_raw(b"message")
    with tokens.unplugged():
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                provider.sign_raw(b"message")
    verify_raw(public_key, provider.sign_raw(b"message"), b"message")


def test_only_what_is_there_is_available(tokens: SoftTokens, tmp_path: Path) -> None:
    assert _provider(tokens, "any").is_available()
    assert not _provider(tokens, "any", "third").is_available()
    assert not open_provider(tokens.uri("first", pin_file=tmp_path / "none"), tmp_path).is_available()
    assert not open_provider(
        f"pkcs11:token=first?module-path=/none.so&pin-source={tokens.pin_file}", tmp_path
    ).is_available()


def test_a_wrong_pin_is_refused_in_one_sentence_that_does_not_show_it(tokens: SoftTokens, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("000 000\n")
    wrong.chmod(0o600)
    provider = open_provider(tokens.uri("guarded", pin_file=wrong), tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"token 'guarded' refuses the PIN in \S+: put the right one there"
    ) as told:
        provider.make_key()
    for shown in (str(told.value), repr(provider)):
        assert "000 000" not in shown
        assert PIN not in shown


def test_a_pin_that_everybody_may_read_is_refused(tokens: SoftTokens, tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_text(PIN)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match=f"^pin-source: everybody may read {path}"):
        open_provider(tokens.uri("guarded", pin_file=path), tmp_path).make_key()
    path.chmod(0o640)
    open_provider(tokens.uri("first", "kept", pin_file=path), tmp_path).make_key()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "can't be read: FileNotFoundError"), ("", "is empty"), ("\n", "is empty")]
)
def test_a_pin_file_that_holds_none_is_named(
    tokens: SoftTokens, tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "pin"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=f"pin-source: {path} {reason}"):
        open_provider(tokens.uri("guarded", pin_file=path), tmp_path).make_key()


def test_a_token_or_library_that_is_not_there_is_named(tokens: SoftTokens, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sees no token 'third': plug it in"):
        _provider(tokens, "any", "third").public_key()
    with pytest.raises(ConfigurationError, match="there are several of token 'twin': add serial=NUMBER"):
        _provider(tokens, "any", "twin").public_key()
    for module in ("/none.so", "/dev/null", "/usr/lib/x86_64-linux-gnu/libc.so.6"):
        provider = open_provider(f"pkcs11:token=first?module-path={module}&pin-source={tokens.pin_file}", tmp_path)
        assert not provider.is_available()
        with pytest.raises(ConfigurationError, match=f"^module-path: (there is no )?{module}") as told:
            provider.public_key()
        assert "\n" not in str(told.value)


def test_a_library_that_can_not_be_loaded_is_said_to_be_the_reason(tokens: SoftTokens, tmp_path: Path) -> None:
    said = said_without("pkcs11", "pkcs11", tokens.uri("first"), tmp_path)
    assert said == ["False", f"pkcs11 needs python-pkcs11: {WHY}"]


def test_a_token_is_found_by_its_serial_number_among_others_of_its_name(tokens: SoftTokens) -> None:
    import pkcs11

    found = list(pkcs11.lib(str(softhsm_library())).get_tokens(token_label="twin"))
    assert len(found) == 2
    keys = [
        open_provider(
            f"{tokens.uri('twin').partition('?')[0]};serial={token.serial.decode()}?"
            f"{tokens.uri('twin').partition('?')[2]}",
            tokens.directory,
        ).make_key()
        for token in found
    ]
    assert keys[0] != keys[1]
