"""UPnP against a gateway on the loopback that says what it is told to: what is believed, and what is asked of whom."""

from __future__ import annotations

import errno
import functools
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.mapping import UpnpMapped, UpnpRefused, UpnpWanted
from fabric.errors import DecodeError
from fabric.shell import upnp as module
from fabric.shell.upnp import MAX_BYTES, Service, Upnp, UpnpError, read_answer, read_description, read_location
from fabric.wire.address import Address, Transport

GATEWAY, OUTSIDE, PORT = "127.0.0.1", "203.0.113.7", 4000
KIND = "urn:schemas-upnp-org:service:WANIPConnection:1"
BOTH = (Address(OUTSIDE, PORT), Address(OUTSIDE, PORT, Transport.TCP))


def description(*services: tuple[str, str], base: str = "") -> bytes:
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>" for kind, url in services
    )
    return (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{base}<device><deviceList><device>'
        f"<serviceList>{listed}</serviceList></device></deviceList></device></root>"
    ).encode()


def envelope(body: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def answer(action: str, **fields: str) -> bytes:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return envelope(f'<u:{action}Response xmlns:u="{KIND}">{inner}</u:{action}Response>')


def fault(code: str, words: str = "") -> bytes:
    return envelope(
        '<s:Fault><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
        f"<errorCode>{code}</errorCode><errorDescription>{words}</errorDescription></UPnPError></detail></s:Fault>"
    )


@dataclass
class Router:
    """An HTTP server of one request a connection, as small routers have."""

    outside: str = OUTSIDE
    refuse: Callable[[str, dict[str, str]], str | None] = lambda action, fields: None
    pages: dict[str, bytes] = field(default_factory=lambda: {"/root.xml": description((KIND, "/control"))})
    table: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        data = bytearray()
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(65_536)
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [b"", b"0"])[1])
        while len(body) < length:
            body += await stream.receive_some(65_536)
        verb, path, _ = head.decode().split("\r\n")[0].split()
        self.asked.append(f"{verb} {path}")
        status, page = (200, self.pages.get(path, b"")) if verb == "GET" else self._act(head.decode(), body.decode())
        with_length = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(page)}\r\nLocation: http://127.0.0.2/\r\n\r\n"
        try:
            await stream.send_all(with_length.encode() + page)
            await stream.aclose()
        except trio.BrokenResourceError:
            return  # the one who asked has heard enough

    def _act(self, head: str, body: str) -> tuple[int, bytes]:
        action = (re.search(r'(?i)soapaction: "[^"#]*#(\w+)"', head) or ["", ""])[1]
        fields = dict(re.findall(r"<(New\w+)>([^<]*)</New\w+>", body))
        code = self.refuse(action, fields)
        if code is not None:
            return 500, fault(code, "no")
        key = (fields.get("NewProtocol", ""), fields.get("NewExternalPort", ""))
        match action:
            case "AddPortMapping":
                self.table[key] = fields
            case "DeletePortMapping":
                self.table.pop(key, None)
            case "GetExternalIPAddress":
                return 200, answer(action, NewExternalIPAddress=self.outside)
        return 200, answer(action)


@pytest.fixture
async def router(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Router]:
    made = Router()
    listeners = await nursery.start(functools.partial(trio.serve_tcp, made.serve, 0, host=GATEWAY))
    made.port = listeners[0].socket.getsockname()[1]

    async def found(gateway: str, own_ip: str) -> str | None:
        """SSDP's port belongs to the whole machine: the namespace tests search for real."""
        return f"http://{gateway}:{made.port}/root.xml"

    monkeypatch.setattr(module, "search", found)
    yield made
    nursery.cancel_scope.cancel()


def wanted(*outside: Address) -> UpnpWanted:
    return UpnpWanted(GATEWAY, "127.0.0.1", PORT, 7200, outside)


async def test_both_transports_are_mapped_for_the_asker_and_deleted_again(router: Router) -> None:
    upnp = Upnp()
    assert await upnp.map(wanted()) == UpnpMapped(BOTH, 7200)
    assert set(router.table) == {("UDP", "4000"), ("TCP", "4000")}
    entry = router.table["UDP", "4000"]
    assert entry["NewInternalClient"] == "127.0.0.1"
    assert entry["NewInternalPort"] == "4000"
    assert entry["NewLeaseDuration"] == "7200"
    await upnp.remove()
    assert router.table == {}


async def test_a_renewal_needs_no_search(router: Router) -> None:
    upnp = Upnp()
    await upnp.map(wanted())
    router.asked.clear()
    assert await upnp.map(wanted(*BOTH)) == UpnpMapped(BOTH, 7200)
    assert router.asked == ["POST /control"] * 3


async def test_a_gateway_that_knows_no_leases_maps_for_ever(router: Router) -> None:
    router.refuse = lambda action, fields: "725" if fields.get("NewLeaseDuration", "0") != "0" else None
    upnp = Upnp()
    assert await upnp.map(wanted()) == UpnpMapped(BOTH, 0)
    await upnp.remove()
    assert router.table == {}


@pytest.mark.parametrize("code", ["718", "729"])
async def test_a_port_that_is_taken_leads_to_another(router: Router, code: str) -> None:
    router.refuse = lambda action, fields: code if fields.get("NewExternalPort") == "4000" else None
    upnp = Upnp()
    result = await upnp.map(wanted())
    assert isinstance(result, UpnpMapped)
    assert all(address.port != PORT and address.port >= 1024 for address in result.addresses)
    assert await upnp.map(wanted(*result.addresses)) == result  # and it stays with that one
    router.refuse = lambda action, fields: None
    await upnp.remove()
    assert router.table == {}


async def test_a_refusal_is_told_in_the_words_of_the_gateway(router: Router) -> None:
    router.refuse = lambda action, fields: "606" if action == "AddPortMapping" else None
    assert await Upnp().map(wanted()) == UpnpRefused("606 no")


@pytest.mark.parametrize("outside", ["", "none", "::1"])
async def test_a_gateway_without_an_outside_address_is_not_connected(router: Router, outside: str) -> None:
    router.outside = outside
    assert await Upnp().map(wanted()) == UpnpRefused("it is not connected")


async def test_no_service_means_no_upnp(router: Router) -> None:
    router.pages["/root.xml"] = description(("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3f"))
    assert await Upnp().map(wanted()) is None


@pytest.mark.parametrize("page", [b"", b"<root>", b"\0\xff", b"x" * (3 * MAX_BYTES), b"<!DOCTYPE a><a/>"])
async def test_a_description_that_is_none_means_no_upnp(router: Router, page: bytes) -> None:
    router.pages["/root.xml"] = page
    assert await Upnp().map(wanted()) is None


async def test_no_redirect_is_followed(router: Router) -> None:
    serve = router._act
    router._act = lambda head, body: (302, serve(head, body)[1])  # type: ignore[method-assign]
    assert not isinstance(await Upnp().map(wanted()), UpnpMapped)
    assert set(router.asked) == {"GET /root.xml", "POST /control"}


async def test_nobody_there_means_no_upnp(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(gateway: str, own_ip: str) -> str | None:
        return f"http://{gateway}:1/root.xml"

    monkeypatch.setattr(module, "search", found)
    assert await Upnp().map(wanted()) is None


async def test_a_search_that_the_host_itself_forbids_means_no_upnp(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A packet filter on the way out tells EPERM, a route that has gone ENETUNREACH."""

    class Forbidden:
        def __init__(self, udp: trio.socket.SocketType) -> None:
            self._udp = udp

        def __getattr__(self, name: str) -> Any:
            return getattr(self._udp, name)

        async def sendto(self, *_: object) -> int:
            raise PermissionError(errno.EPERM, "not permitted")

    ask_twice = module._ask_twice
    monkeypatch.setattr(module, "_ask_twice", lambda asker, gateway: ask_twice(Forbidden(asker), gateway))  # type: ignore[arg-type]
    assert await Upnp().map(wanted()) is None


def test_asking_a_gateway_reads_no_certificates_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty milliseconds in which no frame would move."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: pytest.fail("read"))
    module._client("127.0.0.1")


async def test_nothing_mapped_is_nothing_to_delete() -> None:
    await Upnp().remove()


def found(location: str, st_: str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1") -> bytes:
    return f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nst: {st_}\r\nLocation:{location}\r\n\r\n".encode()


def test_the_answer_to_a_search_names_the_description() -> None:
    assert read_location(found(" http://192.168.1.1:5000/d.xml"), "192.168.1.1") == "http://192.168.1.1:5000/d.xml"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"NOTIFY * HTTP/1.1\r\n\r\n",
        found("http://192.168.1.2/d.xml"),
        found("http://169.254.169.254/latest"),
        found("https://192.168.1.1/d.xml"),
        found("http://192.168.1.1@10.0.0.1/d.xml"),
        found("http://user@192.168.1.1/d.xml"),
        found("http://192.168.1.1.example/d.xml"),
        found("http://[::1/"),
        found("http://192.168.1.1:99999/"),
        found("http://192.168.1.1:0/"),
        found("file:///etc/passwd"),
        found("http://192.168.1.1/d.xml", "urn:schemas-upnp-org:device:MediaServer:1"),
        found(""),
    ],
)
def test_no_answer_makes_us_ask_anybody_but_the_gateway(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_location(payload, "192.168.1.1")


LOCATION = "http://192.168.1.1:5000/dir/root.xml"


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("", "/ctl", "http://192.168.1.1:5000/ctl"),
        ("", "ctl", "http://192.168.1.1:5000/dir/ctl"),
        ("", "http://192.168.1.1:80/ctl", "http://192.168.1.1:80/ctl"),
        ("<URLBase>http://192.168.1.1:49152/</URLBase>", "ctl", "http://192.168.1.1:49152/ctl"),
    ],
)
def test_control_urls_are_relative_to_their_base(base: str, url: str, expected: str) -> None:
    assert read_description(description((KIND, url), base=base), LOCATION, "192.168.1.1") == (Service(KIND, expected),)


def test_the_newest_service_comes_first() -> None:
    kinds = ("WANPPPConnection:1", "WANIPConnection:1", "WANIPConnection:2")
    listed = description(*((f"urn:schemas-upnp-org:service:{kind}", "/c") for kind in kinds))
    order = [service.kind.rpartition(":service:")[2] for service in read_description(listed, LOCATION, "192.168.1.1")]
    assert order == list(reversed(kinds))


@pytest.mark.parametrize(
    "text",
    [
        description((KIND, "http://10.0.0.1/ctl")),
        description((KIND, "ctl"), base="<URLBase>http://10.0.0.1/</URLBase>"),
        description((KIND, "//10.0.0.1/ctl")),
        b'<!DOCTYPE a [<!ENTITY b "x">]><root>&b;</root>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><root/>'.encode("utf-16"),
        description((KIND, "ctl"), base="<URLBase>http://[</URLBase>"),
        description((KIND, "http://[::1/ctl")),
        b"<root>" * 10,
    ],
)
def test_a_description_leads_nowhere_else(text: bytes) -> None:
    with pytest.raises(DecodeError):
        read_description(text, LOCATION, "192.168.1.1")


def test_faults_have_numbers_and_harmless_words() -> None:
    with pytest.raises(UpnpError, match="718 taken") as caught:
        read_answer(500, fault("718", "ta&#10;ken"), "AddPortMapping")
    assert caught.value.code == 718
    with pytest.raises(UpnpError) as strange:
        read_answer(500, fault("many"), "AddPortMapping")
    assert strange.value.code == 0


@pytest.mark.parametrize(("status", "action"), [(500, "AddPortMapping"), (200, "DeletePortMapping")])
def test_an_answer_to_something_else_is_none(status: int, action: str) -> None:
    with pytest.raises(DecodeError):
        read_answer(status, answer("AddPortMapping"), action)


@given(st.binary(max_size=300))
def test_noise_is_a_decode_error_and_nothing_else(noise: bytes) -> None:
    readers: list[Callable[[], Any]] = [
        lambda: read_location(b"HTTP/1.1 200" + noise, "192.168.1.1"),
        lambda: read_description(noise, LOCATION, "192.168.1.1"),
        lambda: read_answer(200, noise, "AddPortMapping"),
        lambda: read_location(found("http://" + noise.decode("latin-1")), "192.168.1.1"),
    ]
    for reader in readers:
        try:
            reader()
        except (DecodeError, UpnpError):
            continue
