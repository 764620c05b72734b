"""The gateway of this very host, if it has one; the rest is asked in namespaces."""

from __future__ import annotations

import trio

from fabric.shell.gateway import Gateway, read_gateway, watch_gateway
from fabric.shell.links import read_underlay


async def test_a_gateway_is_reached_from_an_address_of_this_host() -> None:
    gateway = await read_gateway("fabric0")
    own = {str(interface.ip) for interface in await read_underlay("fabric0")}
    assert gateway is None or gateway.own_ip in own


async def test_the_device_of_the_overlay_leads_to_no_gateway() -> None:
    gateway = await read_gateway("fabric0")
    assert gateway is None or await read_gateway(gateway.name) is None


async def test_the_watch_tells_what_there_is_at_once() -> None:
    told: list[Gateway | None] = []
    with trio.move_on_after(5) as scope:

        def handle(gateway: Gateway | None) -> None:
            told.append(gateway)
            scope.cancel()

        await watch_gateway("fabric0", handle)
    assert told == [await read_gateway("fabric0")]
