"""URIs of keys in tokens: RFC 7512, strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.custody.providers.pkcs11_uri import DEFAULT_OBJECT, parse_key_uri
from fabric.errors import ConfigurationError

QUERY = "?module-path=/usr/lib/token.so&pin-source=file:/etc/fabric/pin"


def test_a_uri_says_which_token_which_object_and_by_which_library() -> None:
    uri = parse_key_uri("pkcs11:token=My%20token;object=host;serial=0a1b;type=private" + QUERY)
    assert (uri.token, uri.serial, uri.object) == ("My token", "0a1b", "host")
    assert (uri.module, uri.pin_file) == (Path("/usr/lib/token.so"), Path("/etc/fabric/pin"))


def test_the_object_may_be_left_out_and_one_of_token_and_serial() -> None:
    by_name, by_serial = parse_key_uri("pkcs11:token=t" + QUERY), parse_key_uri("pkcs11:serial=7" + QUERY)
    assert (by_name.object, by_name.serial, by_serial.token) == (DEFAULT_OBJECT, None, None)
    assert "'t'" in by_name.where
    assert "7" in by_serial.where


@pytest.mark.parametrize("written", ["file:/etc/pin", "file:///etc/pin", "/etc/pin", "%2Fetc%2Fpin"])
def test_a_path_may_be_written_as_one_or_as_a_uri(written: str) -> None:
    assert parse_key_uri(f"pkcs11:token=t?pin-source={written}&module-path=/m.so").pin_file == Path("/etc/pin")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with pkcs11:"),
        ("file:/x", "begins with pkcs11:"),
        ("PKCS11:token=t" + QUERY, "begins with pkcs11:"),
        ("pkcs11:" + QUERY, "names no token"),
        ("pkcs11:object=o" + QUERY, "names no token"),
        ("pkcs11:token=t", "no module-path"),
        ("pkcs11:token=t?module-path=/m.so", "no pin-source"),
        ("pkcs11:token=t?pin-source=/p", "no module-path"),
        ("pkcs11:token=t;token=u" + QUERY, "token twice"),
        ("pkcs11:token=t" + QUERY + "&pin-source=/p", "pin-source twice"),
        ("pkcs11:token=t;slot-id=1" + QUERY, "'slot-id'"),
        ("pkcs11:token=t;Object=o" + QUERY, "'Object'"),
        ("pkcs11:token=t;type=public" + QUERY, "private key"),
        ("pkcs11:token=" + QUERY, "no proper value for token"),
        ("pkcs11:token" + QUERY, "no proper value for token"),
        ("pkcs11:token=t;" + QUERY, "''"),
        ("pkcs11:token=a b" + QUERY, "no proper value for token"),
        ("pkcs11:token=a/b" + QUERY, "no proper value for token"),
        ("pkcs11:token=%2" + QUERY, "no proper value for token"),
        ("pkcs11:token=%zz" + QUERY, "no proper value for token"),
        ("pkcs11:token=%ff" + QUERY, "not UTF-8"),
        ("pkcs11:token=%0a" + QUERY, "unprintable"),
        ("pkcs11:token=%00" + QUERY, "unprintable"),
        ("pkcs11:token=t?module-path=m.so&pin-source=/p", "module-path is to be an absolute path"),
        ("pkcs11:token=t?module-path=/m.so&pin-source=file:p", "pin-source is to be an absolute path"),
        ("pkcs11:token=t?module-path=/m.so&pin-source=file://host/p", "pin-source is to be an absolute path"),
        ("pkcs11:token=t?module-path=/m.so&pin-source=|ask", "pin-source is to be an absolute path"),
        ("pkcs11:token=t?module-name=m&pin-source=/p", "'module-name'"),
        ("pkcs11:token=t?module-path=/m.so?pin-source=/p", "no pin-source"),
        ("pkcs11:token=t" + QUERY + "\n", "no proper value for pin-source"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_key_uri(text)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["pkcs11:token=t?pin-value=4711", "pkcs11:token=t;pin-value=4711" + QUERY])
def test_a_pin_in_the_uri_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="pin-source=file:/PATH") as refused:
        parse_key_uri(text)
    assert "4711" not in str(refused.value)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_configuration_error(text: str) -> None:
    for attempt in (text, "pkcs11:" + text, "pkcs11:token=t?" + text, "pkcs11:" + text + QUERY):
        try:
            uri = parse_key_uri(attempt)
        except ConfigurationError:
            continue
        assert uri.text == attempt
        assert uri.module.is_absolute()
        assert uri.pin_file.is_absolute()
