"""Ports of the gateway by UPnP: SSDP finds its description, which names a control URL, and SOAP asks there.

    M-SEARCH, multicast and to the gateway --> answer with LOCATION --> GET description --> POST AddPortMapping ...

Sources: UPnP Device Architecture 1.1 (sections 1.3, 2, 3), WANIPConnection:1 and :2. Everything that comes back is
bounded, and counts only where it is from the gateway itself: no other address on the LAN is asked for anything, by
whatever URL, and no redirect followed. Any host of the LAN can answer a search; only the gateway's table matters.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import trio

from fabric.core.mapping import UpnpMapped, UpnpRefused, UpnpWanted
from fabric.errors import DecodeError, FabricError
from fabric.shell.late import load
from fabric.wire.address import Address, Transport

if TYPE_CHECKING:
    from xml.etree import ElementTree

    import httpx

SSDP_GROUP, SSDP_PORT = "239.255.255.250", 1900
SEARCH_S = 2.0
"""With MX 1 an answer may take a second (UDA 1.1 section 1.3.3), and the second question comes after half of one."""

REQUEST_S = 4.0
ATTEMPT_S = 20.0
"""One whole attempt: well below `fabric.core.mapping_pace.UPNP_PATIENCE_S`."""

MAX_SEARCH_BYTES = 2048
MAX_SEARCH_ANSWERS = 16
"""A gateway has some answers for each of its devices and services; a LAN full of printers is not waited for."""

MAX_BYTES = 131_072
"""Descriptions of real routers have up to some tens of thousands of bytes."""

MAX_SERVICES = 4
"""A router with several lines (DSL, mobile) has as many services; the first that is connected is taken."""

PORT_TRIES = 4

DESCRIPTION = "fabric"

_DEVICES = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (2, 1))
_SERVICES = tuple(
    f"urn:schemas-upnp-org:service:{name}" for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
_PROTOCOLS = {Transport.UDP: "UDP", Transport.TCP: "TCP"}

# Error codes: WANIPConnection:2 section 2.5
_CONFLICT = 718
_ONLY_PERMANENT = 725
_CONFLICT_WITH_OTHER = 729

_FAILURES = (DecodeError, OSError, trio.TooSlowError)
"""What a gateway that is broken, gone or not one can make of a request."""


class UpnpError(FabricError):
    """The gateway said no, in words; `code` is 0 where it gave none."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{code} {words}".strip() if code else words)
        self.code = code


@dataclass(frozen=True, slots=True)
class Service:
    """Where a gateway takes orders for its outside connection."""

    kind: str
    control_url: str


class Upnp:
    """Maps ports at one gateway at a time, and remembers which, so that they can be deleted."""

    def __init__(self) -> None:
        self._gateway = ""
        self._service: Service | None = None
        self._made: dict[tuple[Transport, int], Service] = {}
        self._own_ip = ""

    async def map(self, wanted: UpnpWanted) -> UpnpMapped | UpnpRefused | None:
        """Returns what became of it; None where the gateway doesn't speak UPnP. Takes at most `ATTEMPT_S`."""
        with trio.move_on_after(ATTEMPT_S):
            try:
                return await self._map(wanted)
            except UpnpError as error:
                self._service = None
                return UpnpRefused(str(error))
            except _FAILURES:
                self._service = None
        return None

    async def remove(self) -> None:
        """Deletes all that was mapped, as well as it goes."""
        made, self._made = self._made, {}
        if not made:
            return
        async with _client(self._own_ip) as http, trio.open_nursery() as nursery:
            for (transport, port), service in made.items():
                nursery.start_soon(_delete, http, service, transport, port)

    async def _map(self, wanted: UpnpWanted) -> UpnpMapped | None:
        if self._gateway != wanted.gateway:
            self._gateway, self._service = wanted.gateway, None
            self._made.clear()
        self._own_ip = wanted.own_ip
        location = None if self._service else await search(wanted.gateway, wanted.own_ip)
        if self._service is None and location is None:
            return None
        await load("httpx", "xml.etree.ElementTree", "xml.sax.saxutils")
        async with _client(wanted.own_ip) as http:
            found = await self._connected(http, wanted.gateway, location)
            if found is None:
                return None
            service, outside_ip = found
            addresses, lives = [], []
            for transport in _PROTOCOLS:
                port, lifetime_s = await self._add(http, service, wanted, transport)
                addresses.append(Address(outside_ip, port, transport))
                lives.append(lifetime_s)
            return UpnpMapped(tuple(addresses), min(lives))

    async def _connected(
        self, http: httpx.AsyncClient, gateway: str, location: str | None
    ) -> tuple[Service, str] | None:
        """Returns the service that is connected, and its outside address: the one of last time, or without a
        description's `location` there is none."""
        if self._service is not None:
            return self._service, await _outside_ip(http, self._service)
        if location is None:
            return None
        services = read_description(await _get(http, location), location, gateway)
        for service in services[:MAX_SERVICES]:
            try:
                outside_ip = await _outside_ip(http, service)
            except (UpnpError, *_FAILURES):
                continue
            self._service = service
            return service, outside_ip
        if services:
            raise UpnpError(0, "it is not connected")
        return None

    async def _add(
        self, http: httpx.AsyncClient, service: Service, wanted: UpnpWanted, transport: Transport
    ) -> tuple[int, int]:
        """Returns the outside port, and for how many seconds, 0 for ever. Raises `UpnpError`."""
        had = [address.port for address in wanted.outside if address.transport is transport]
        ports = [*had, wanted.port, *_others(wanted.port)]
        for port in dict.fromkeys(ports):
            is_new = (transport, port) not in self._made
            self._made[transport, port] = service  # first: whoever is cancelled in the midst of it deletes it, too
            try:
                return port, await _add_leased(http, service, wanted, transport, port)
            except UpnpError as error:
                if is_new:
                    del self._made[transport, port]
                if error.code not in (_CONFLICT, _CONFLICT_WITH_OTHER):
                    raise
        raise UpnpError(_CONFLICT, "every port that was tried belongs to somebody else")


def _others(port: int) -> list[int]:
    """Ports to try where the same number outside is taken: far from each other, and never of the system's."""
    return [1024 + (port * 7 + step * 9973) % 64_000 for step in range(1, PORT_TRIES)]


async def _add_leased(
    http: httpx.AsyncClient, service: Service, wanted: UpnpWanted, transport: Transport, port: int
) -> int:
    """Returns for how many seconds. Some gateways know no leases: 0, what they map stays until it is deleted."""
    try:
        await _add_mapping(http, service, wanted, transport, port, wanted.lifetime_s)
    except UpnpError as error:
        if error.code != _ONLY_PERMANENT:
            raise
        await _add_mapping(http, service, wanted, transport, port, 0)
        return 0
    return wanted.lifetime_s


async def _add_mapping(
    http: httpx.AsyncClient, service: Service, wanted: UpnpWanted, transport: Transport, port: int, lifetime_s: int
) -> None:
    arguments = {
        "NewRemoteHost": "",
        "NewExternalPort": str(port),
        "NewProtocol": _PROTOCOLS[transport],
        "NewInternalPort": str(wanted.port),
        "NewInternalClient": wanted.own_ip,
        "NewEnabled": "1",
        "NewPortMappingDescription": DESCRIPTION,
        "NewLeaseDuration": str(lifetime_s),
    }
    await _call(http, service, "AddPortMapping", arguments)


async def _delete(http: httpx.AsyncClient, service: Service, transport: Transport, port: int) -> None:
    arguments = {"NewRemoteHost": "", "NewExternalPort": str(port), "NewProtocol": _PROTOCOLS[transport]}
    try:
        await _call(http, service, "DeletePortMapping", arguments)
    except (UpnpError, *_FAILURES):
        return  # a gateway that has forgotten it, or is gone, has nothing left to delete


async def _outside_ip(http: httpx.AsyncClient, service: Service) -> str:
    """Raises `UpnpError` where the connection has no address."""
    answer = await _call(http, service, "GetExternalIPAddress", {})
    try:
        return str(ipaddress.IPv4Address(answer.get("NewExternalIPAddress", "")))
    except ValueError:
        raise UpnpError(0, "it has no outside address") from None


# -- SSDP -------------------------------------------------------------------------------------------------------


async def search(gateway: str, own_ip: str) -> str | None:
    """Returns the URL of the gateway's description; None where it answers no search. Raises `OSError`.

    Asks the group on the link of `own_ip`, and the gateway itself, for LANs that lose multicast (UDA 1.1 section 1.3).
    """
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        await asker.bind((own_ip, 0))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own_ip))
        asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)  # UDA 1.1 section 1.3.2
        with trio.move_on_after(SEARCH_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ask_twice, asker, gateway)
                location = await _first_location(asker, gateway)
                nursery.cancel_scope.cancel()
            return location
    return None


async def _ask_twice(asker: trio.socket.SocketType, gateway: str) -> None:
    for _ in range(2):
        for device in _DEVICES:
            for ip in (SSDP_GROUP, gateway):
                with suppress(OSError):  # a firewall of this host forbids it, or the route has just gone
                    await asker.sendto(_search_request(device, ip), (ip, SSDP_PORT))
        await trio.sleep(SEARCH_S / 4)


def _search_request(device: str, ip: str) -> bytes:
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {ip}:{SSDP_PORT}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {device}")
    return "\r\n".join((*lines, "", "")).encode()


async def _first_location(asker: trio.socket.SocketType, gateway: str) -> str | None:
    answers = 0
    while answers < MAX_SEARCH_ANSWERS:
        try:
            payload, (ip, _) = await asker.recvfrom(MAX_SEARCH_BYTES)
        except OSError:  # of an earlier send
            continue
        if ip != gateway:
            continue
        answers += 1
        try:
            return read_location(payload, gateway)
        except DecodeError:
            continue
    return None


def read_location(payload: bytes, gateway: str) -> str:
    """Returns the LOCATION of an answer to a search for a gateway. Raises `DecodeError`."""
    head, *lines = payload.decode("latin-1").split("\r\n")
    if not head.startswith("HTTP/1.1 200"):
        raise DecodeError("no answer to a search")
    headers = {name.strip().upper(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("ST") not in _DEVICES:
        raise DecodeError("not a gateway")
    return checked_url(headers.get("LOCATION", ""), gateway)


def checked_url(url: str, gateway: str) -> str:
    """Returns `url` if it is plain HTTP to the gateway itself; else raises `DecodeError`: nobody has us ask others."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DecodeError("a URL that is none") from None
    if parts.scheme != "http" or parts.hostname != gateway or parts.username or port == 0 or not url.isprintable():
        raise DecodeError("a URL that doesn't lead to the gateway")
    return url


# -- description and SOAP ---------------------------------------------------------------------------------------


def read_description(text: bytes, location: str, gateway: str) -> tuple[Service, ...]:
    """Returns the services that map ports, the newest kind first. Raises `DecodeError`."""
    root = _parse(text)
    base = next((element.text or "" for element in root.iter() if _tag(element) == "URLBase"), "").strip() or location
    found = [_fields(element) for element in root.iter() if _tag(element) == "service"]
    services = [
        Service(fields["serviceType"], checked_url(_joined(base, fields["controlURL"]), gateway))
        for fields in found
        if fields.get("serviceType") in _SERVICES and fields.get("controlURL")
    ]
    return tuple(sorted(services, key=lambda service: _SERVICES.index(service.kind)))


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:
        raise DecodeError("a URL that is none") from None


def read_answer(status: int, text: bytes, action: str) -> Mapping[str, str]:
    """Returns the arguments of the answer to a SOAP call. Raises `UpnpError` for a refusal, else `DecodeError`."""
    root = _parse(text)
    for element in root.iter():
        if _tag(element) == "UPnPError":
            fields = _fields(element)
            code = fields.get("errorCode", "")
            raise UpnpError(int(code) if code.isascii() and code.isdigit() and len(code) < 5 else 0, _words(fields))
        if status == HTTPStatus.OK and _tag(element) == f"{action}Response":
            return _fields(element)
    raise DecodeError(f"no answer to {action}, status {status}")


def _words(fields: Mapping[str, str]) -> str:
    """What a gateway calls its error, fit for a line that people read."""
    return "".join(letter for letter in fields.get("errorDescription", "")[:80] if letter.isprintable())


def _parse(text: bytes) -> ElementTree.Element:
    """Without document types there are no entities, internal or external, to expand: they are all that XML parsers
    have to fear. As text, because an encoding could hide one."""
    from xml.etree import ElementTree

    decoded = text.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t").rstrip("\0 \r\n\t")
    if "<!DOCTYPE" in decoded or "<!ENTITY" in decoded:
        raise DecodeError("XML with a document type")
    try:
        return ElementTree.fromstring(decoded)  # noqa: S314  see above
    except (ElementTree.ParseError, ValueError) as error:
        raise DecodeError(f"not XML: {error}") from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {_tag(child): (child.text or "").strip() for child in element}


def _envelope(service: Service, action: str, arguments: Mapping[str, str]) -> bytes:
    from xml.sax.saxutils import escape

    fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    return (
        '<?xml version="1.0"?>\r\n'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
        f'<s:Body><u:{action} xmlns:u="{service.kind}">{fields}</u:{action}></s:Body></s:Envelope>\r\n'
    ).encode()


async def _call(
    http: httpx.AsyncClient, service: Service, action: str, arguments: Mapping[str, str]
) -> Mapping[str, str]:
    """Raises `UpnpError`, and what `_fetch` raises."""
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{service.kind}#{action}"'}
    body = _envelope(service, action, arguments)
    status, text = await _fetch(http, "POST", service.control_url, body, headers)
    return read_answer(status, text, action)


async def _get(http: httpx.AsyncClient, url: str) -> bytes:
    status, text = await _fetch(http, "GET", url)
    if status != HTTPStatus.OK:
        raise DecodeError(f"status {status} for the description")
    return text


async def _fetch(
    http: httpx.AsyncClient, method: str, url: str, content: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Returns status and body. Raises `trio.TooSlowError` where that takes too long, `DecodeError` where it is too
    long, or what answers speaks no HTTP."""
    import httpx

    body = bytearray()
    try:
        with trio.fail_after(REQUEST_S) as patience:
            request = http.build_request(method, url, content=content, headers=headers)
            response = await http.send(request, stream=True)
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        patience.cancel()  # not by leaving: the generators below this one would be left unfinished
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DecodeError(f"no HTTP from the gateway: {error}") from error
    if len(body) > MAX_BYTES:
        raise DecodeError(f"an answer of more than {MAX_BYTES} bytes")
    return response.status_code, bytes(body)


def _client(own_ip: str) -> httpx.AsyncClient:
    """No proxy, no redirect, no compression, no connection kept: routers' HTTP servers are small."""
    import httpx

    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # trusts nobody: to read whom it could takes 50 ms of ours
            local_address=own_ip or None,
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=0),
        ),
        headers={"Accept-Encoding": "identity", "User-Agent": "fabric", "Connection": "close"},
        timeout=REQUEST_S,
        follow_redirects=False,
        trust_env=False,
    )
