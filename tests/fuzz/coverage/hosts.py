"""Targets of what is read from hosts in other ways: TCP streams, gateways' XML, proxies, the control socket, netlink,
and what lies on the disk."""

from __future__ import annotations

import contextlib

import msgspec

from discovery.core import orders
from fabric.core.records import PeerRecord, decode_record, encode_record
from fabric.custody import wire as custody
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.shell import rtnetlink, upnp
from fabric.shell.control_wire import (
    AskAdd,
    AskPing,
    AskStatus,
    AskWait,
    Failed,
    Pinged,
    decode_answer,
    decode_question,
    encode_line,
)
from fabric.shell.framing import MAX_FRAMED_BYTES, Unframer, frame_datagram
from fabric.shell.host import check_host
from fabric.shell.proxy import HttpProxy, ProxyError, _Tunnel, parse_proxy
from tests.fuzz.coverage.papers import SIGNER, _household
from tests.fuzz.coverage.target import Target, again
from tests.identity.household import START

GATEWAY = "192.0.2.1"
LOCATION = "http://192.0.2.1:5000/root.xml"
HUGE_BYTES = 65_536


def _stream(data: bytes) -> None:
    """The first byte says in what pieces the rest arrives; what comes out does not depend on it."""
    size, stream = (data[0] if data else 0) + 1, data[1:]
    unframer, cut = Unframer(("192.0.2.9", 7)), []
    try:
        for at in range(0, len(stream), size):
            cut += unframer.take(stream[at : at + size])
    finally:
        joined = b"".join(frame_datagram(datagram) for datagram, _ in cut)
        assert stream.startswith(joined)
        assert len(unframer._rest) <= MAX_FRAMED_BYTES + 2 + size
    assert Unframer(("192.0.2.9", 7)).take(stream) == cut


def _location(data: bytes) -> None:
    url = upnp.read_location(data, GATEWAY)
    assert url.lower().startswith("http://")
    assert upnp.checked_url(url, GATEWAY) == url


def _description(data: bytes) -> None:
    for service in upnp.read_description(data, LOCATION, GATEWAY):
        assert upnp.checked_url(service.control_url, GATEWAY) == service.control_url


def _soap(data: bytes) -> None:
    status = 200 if data[:1] < b"\x80" else 500
    for value in upnp.read_answer(status, data[1:], "GetExternalIPAddress").values():
        assert isinstance(value, str)


def _proxy(data: bytes) -> None:
    """The first byte says in what pieces the rest arrives."""
    tunnel = _Tunnel(HttpProxy("proxy.example", 3128, "Basic c2VjcmV0"), "service.example", 443)
    size, stream = (data[0] if data else 0) + 1, data[1:]
    for at in range(0, len(stream), size):
        try:
            tunnel.receive(stream[at : at + size])
        except ProxyError as error:
            _require("c2VjcmV0" not in str(error), "a password is told")
            raise
        if tunnel.is_open:
            return


def _proxy_url(data: bytes) -> None:
    proxy = parse_proxy(data.decode("utf-8", errors="surrogateescape"))
    check_host(proxy.host)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _host(data: bytes) -> None:
    host = data.decode("utf-8", errors="surrogateescape")
    assert check_host(host) == host
    host.encode("idna")


def _question(data: bytes) -> None:
    line = encode_line(decode_question(data))
    assert line.endswith(b"\n")
    assert encode_line(decode_question(line)) == line


def _answer(data: bytes) -> None:
    line = encode_line(decode_answer(data))
    assert encode_line(decode_answer(line)) == line


def _custodian(data: bytes) -> None:
    """What stands on the socket between the daemon and the custodian of its keys, from either side."""
    buffer = bytearray(data[1:])
    body = custody.take_message(buffer) or b""
    decode = custody.decode_question if data[:1] < b"\x80" else custody.decode_answer
    written = custody.encode(decode(body))
    assert custody.encode(decode(written[custody.LENGTH_BYTES :])) == written


def _orders(data: bytes) -> None:
    """What is carried between the service and an authority that is offline; the service's signature is made good."""
    root, signer = _household().authority.root, SIGNER
    with contextlib.suppress(DecodeError, AuthenticationError):
        orders.open_answers(orders._ANSWERS + data, root)
    certificate = _household().authority.issue_service(signer.public_key, ("a.example",), 7, START, START + 60)
    parts = (data, certificate, signer.sign(orders.LABEL_REQUESTS, data))
    signed = orders._REQUESTS + msgspec.msgpack.encode(orders._Signed(*parts))
    assert len(orders.open_requests(signed, root)) >= 0


def _netlink(data: bytes) -> None:
    for message in rtnetlink.messages(data):
        for fixed in (rtnetlink.LINK, rtnetlink.ADDRESS, rtnetlink.ROUTE):
            rtnetlink.attributes(message.body, fixed)
        assert message.is_last in (True, False)


# genuine inputs


_DESCRIPTION = b"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>http://192.0.2.1:5000</URLBase><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl/IPConn</controlURL>
</service></serviceList></device></root>"""

_ANSWER = b"""\0<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
<u:GetExternalIPAddressResponse xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">
<NewExternalIPAddress>203.0.113.9</NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body></s:Envelope>"""

_FAULT = b"""\xff<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><detail>
<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>725</errorCode><errorDescription>Only permanent
</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>"""

_FOUND = (
    b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: "
    + LOCATION.encode()
    + b"\r\n\r\n"
)


def _questions() -> list[bytes]:
    said = (AskStatus(), AskAdd("web-1", "fingerprint"), AskWait("web-1", "direct", 3.0), AskPing("web-1"))
    return [encode_line(each) for each in said]


def _answers() -> list[bytes]:
    return [encode_line(each) for each in (Failed(1, "why"), Pinged("web-1.home", 0.3, "direct", "192.0.2.9:7"))]


def _records() -> list[bytes]:
    return [
        encode_record(PeerRecord(name="web-1.home")),
        encode_record(PeerRecord(name="a.b", gate_index=7, offer=b"o")),
    ]


def _custodian_messages() -> list[bytes]:
    asked = (custody.Forget(START), custody.NextBundle(START), custody.Rotate(START), custody.Move("tpm2"))
    answered = (custody.Done(b"value"), custody.Refused("policy", "why"))
    return [b"\0" + custody.encode(each) for each in asked] + [b"\xff" + custody.encode(each) for each in answered]


def _order_files() -> list[bytes]:
    root = _household().authority.root
    asked = orders.Requests(
        "home", root.fingerprint, START, (), orders.ServiceRequest(bytes(16), bytes(32), ("a",), 60.0)
    )
    answers = orders.encode_answers(orders.Answers("home", root.fingerprint)).removeprefix(orders._ANSWERS)
    return [msgspec.msgpack.encode(asked), answers]


def _netlinks() -> list[bytes]:
    body = rtnetlink.LINK.pack(0, 1, 2, 3, 4) + rtnetlink.attribute(3, b"eth0\0") + rtnetlink.attribute(4, b"\0\5\0\0")
    return [rtnetlink.request(rtnetlink.RTM_NEWLINK, body) * 2, rtnetlink.request(3, b"")]


TARGETS = (
    Target("host-stream", _stream, lambda: [b"\3" + frame_datagram(b"one") + frame_datagram(b"two")]),
    Target("host-upnp-location", _location, lambda: [_FOUND], length=1024),
    Target("host-upnp-description", _description, lambda: [_DESCRIPTION], length=4096),
    Target("host-upnp-answer", _soap, lambda: [_ANSWER, _FAULT], (), (DecodeError, upnp.UpnpError), 4096),
    Target(
        "host-proxy",
        _proxy,
        lambda: [b"\7HTTP/1.1 200 OK\r\n\r\n", b"\7HTTP/1.1 407 No\r\nA: b\r\n\r\n", b"\7HTTP/1.1 100 Go\r\n\r\n"],
        (),
        (ProxyError,),
    ),
    Target(
        "host-proxy-url",
        _proxy_url,
        lambda: [b"http://user:password@proxy.example:3128", b"[2001:db8::1]:80"],
        (),
        (ConfigurationError,),
        256,
    ),
    Target("host-name", _host, lambda: [b"service.example", "b\xfccher.example".encode(), b"2001:db8::1"], length=300),
    Target("host-question", _question, _questions, ("control_wire:decode_question",), length=4096),
    Target("host-answer", _answer, _answers, ("control_wire:decode_answer",), length=4096),
    Target("host-record", again(decode_record, encode_record), _records, ("records:decode_record",)),
    Target(
        "host-custodian",
        _custodian,
        _custodian_messages,
        ("wire:decode_question", "wire:decode_answer"),
    ),
    Target(
        "host-orders",
        _orders,
        _order_files,
        ("orders:open_requests", "orders:open_answers"),
        (DecodeError, AuthenticationError),
        4096,
    ),
    Target("host-netlink", _netlink, _netlinks, (), ()),
)
