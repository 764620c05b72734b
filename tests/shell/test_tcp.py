"""TCP between two ends on the loopback: opened from both sides at once, lost, refused, clogged, and by strangers."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
import trio
import trio.testing

from fabric.dataplane.contract import Drop
from fabric.shell import tcp as module
from fabric.shell.framing import MAX_FRAMED_BYTES, frame_datagram
from fabric.shell.tcp import MAX_UNVOUCHED_PER_SOURCE, TcpLinks
from fabric.shell.tcp_link import STRANGERS_BYTES
from fabric.wire.address import Address, Target, Transport, target_of
from fabric.wire.stun import HEADER_BYTES, answer_binding

RESET = struct.pack("@ii", 1, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class End:
    """One end's connections, and what was told of them."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.drops: Counter[Drop] = Counter()
        self.port = free_port()
        self.address = Address("127.0.0.1", self.port, Transport.TCP)
        self.links = TcpLinks(self.port, self.drops, now) if now else TcpLinks(self.port, self.drops)
        self.links.attach(self, self.receive)
        self.up: list[tuple[Address, Address | None]] = []
        self.lost: list[tuple[Address, str]] = []
        self.failed: list[tuple[Address, str]] = []
        self.reflexive: list[Sequence[Address]] = []
        self.came: list[tuple[bytes, Target]] = []
        self.batches = 0
        self.listening: list[bool] = []

    def receive(self, batch: list[tuple[bytes, Target]]) -> None:
        self.came += batch
        self.batches += 1

    def handle_link(self, link: Address, asked: Address | None) -> None:
        self.up.append((link, asked))

    def handle_link_lost(self, link: Address, why: str) -> None:
        self.lost.append((link, why))

    def handle_connect_failed(self, to: Address, why: str) -> None:
        self.failed.append((to, why))

    def handle_listening(self, *, up: bool) -> None:
        self.listening.append(up)

    def handle_tcp_reflexive(self, addresses: Sequence[Address]) -> None:
        self.reflexive.append(tuple(addresses))

    def send(self, datagrams: Sequence[bytes], link: Address) -> None:
        for datagram in datagrams:
            self.links.send(datagram, target_of(link))
        self.links.flush()


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.testing.wait_all_tasks_blocked(0.001)


@pytest.fixture
async def ends(nursery: trio.Nursery) -> tuple[End, End]:
    both = End(), End()
    for end in both:
        await nursery.start(end.links.run)
    return both


async def joined(ann: End, bob: End, *, is_known: bool = True) -> tuple[Address, Address]:
    """Connects `ann` to `bob`, who listens, and knows who it is; returns the link's address at each."""
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    ann.links.connect(bob.address)
    await until(lambda: ann.up and bob.up)
    if is_known:
        bob.links.vouch(bob.up[-1][0])
    return ann.up[-1][0], bob.up[-1][0]


@pytest.fixture
def strangers() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


async def stranger(bob: End, strangers: list[socket.socket]) -> socket.socket:
    sock = socket.socket()
    strangers.append(sock)
    sock.connect(("127.0.0.1", bob.port))
    sock.setblocking(False)
    await trio.testing.wait_all_tasks_blocked()
    return sock


# opening


async def test_a_connection_is_told_with_what_was_asked_at_one_end_only(ends: tuple[End, End]) -> None:
    ann, bob = ends
    at_ann, at_bob = await joined(ann, bob)
    assert ann.up == [(Address("127.0.0.1", bob.port, Transport.TCP, at_ann.via), bob.address)]
    assert bob.up == [(Address("127.0.0.1", ann.port, Transport.TCP, at_bob.via), None)]
    assert at_ann.via > 0


@pytest.mark.parametrize("listening", [False, True])
async def test_two_syns_that_cross_make_one_connection(
    ends: tuple[End, End], strangers: list[socket.socket], listening: bool
) -> None:
    """A listener whose queue is full swallows ann's SYN as a NAT would; bob's then meets a socket that has sent one."""
    ann, bob = ends
    full = socket.socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    full.bind(("127.0.0.1", bob.port))
    full.listen(0)
    await stranger(bob, strangers)
    ann.links.listen(wanted=listening)
    await trio.testing.wait_all_tasks_blocked()
    ann.links.connect(bob.address)
    await trio.testing.wait_all_tasks_blocked()
    full.close()
    bob.links.connect(ann.address)
    await until(lambda: ann.up and bob.up)
    assert [asked for _, asked in ann.up] == [bob.address]
    assert [asked for _, asked in bob.up] == [ann.address]
    ann.send([b"from ann"], ann.up[0][0])
    bob.send([b"from bob"], bob.up[0][0])
    await until(lambda: ann.came and bob.came)
    assert ann.came == [(b"from bob", target_of(ann.up[0][0]))]
    assert bob.came == [(b"from ann", target_of(bob.up[0][0]))]


@pytest.mark.parametrize("rounds", range(4))
async def test_two_ends_that_listen_and_connect_at_once_have_one_connection_each_asked_for(
    ends: tuple[End, End], rounds: int
) -> None:
    ann, bob = ends
    for end in ends:
        end.links.listen(wanted=True)
    if rounds % 2:
        await trio.testing.wait_all_tasks_blocked()
    ann.links.connect(bob.address)
    bob.links.connect(ann.address)
    await until(lambda: ann.up and bob.up)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert [asked for _, asked in ann.up] == [bob.address]
    assert [asked for _, asked in bob.up] == [ann.address]
    ann.send([b"from ann"], ann.up[0][0])
    bob.send([b"from bob"], bob.up[0][0])
    await until(lambda: ann.came and bob.came)
    assert not ann.failed
    assert not bob.failed
    assert not ann.lost
    assert not bob.lost


async def test_a_connection_that_stands_answers_a_wish_for_it(ends: tuple[End, End]) -> None:
    ann, bob = ends
    _, at_bob = await joined(ann, bob, is_known=False)
    bob.links.connect(ann.address)
    await until(lambda: len(bob.up) == 2)
    assert bob.up[1] == (at_bob, ann.address)
    bob.send([b"no stranger"], at_bob)
    await until(lambda: ann.came)


async def test_a_refused_attempt_is_repeated(ends: tuple[End, End]) -> None:
    ann, bob = ends
    ann.links.connect(bob.address)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not ann.up
    bob.links.listen(wanted=True)
    await until(lambda: ann.up)
    assert not ann.failed


async def test_what_nobody_answers_is_given_up_with_a_reason(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.4)
    ann, bob = ends
    ann.links.connect(bob.address)
    ann.links.connect(bob.address)
    await until(lambda: ann.failed)
    assert ann.failed == [(bob.address, "refused")]
    ann.links.connect(bob.address)
    await until(lambda: len(ann.failed) == 2)


async def test_an_end_does_not_connect_to_itself(ends: tuple[End, End]) -> None:
    ann, _ = ends
    ann.links.connect(ann.address)
    await until(lambda: ann.failed)
    assert ann.failed == [(ann.address, "that is this very socket")]
    assert not ann.up


async def test_a_port_that_is_not_listened_on_any_more_is_closed_and_connections_stay(ends: tuple[End, End]) -> None:
    ann, bob = ends
    at_ann, _ = await joined(ann, bob)
    bob.links.listen(wanted=False)
    await trio.testing.wait_all_tasks_blocked()
    with socket.socket() as stranger, pytest.raises(ConnectionRefusedError):
        stranger.connect(("127.0.0.1", bob.port))
    ann.send([b"still here"], at_ann)
    await until(lambda: bob.came)
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    with socket.socket() as stranger:
        stranger.connect(("127.0.0.1", bob.port))
    assert bob.listening == [True, False, True]
    bob.links.listen(wanted=False)
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    assert bob.listening[3:] == [True]


async def test_a_port_that_another_program_has_is_told(ends: tuple[End, End]) -> None:
    ann, _ = ends
    with socket.socket() as other:
        other.bind(("127.0.0.1", ann.port))
        ann.links.listen(wanted=True)
        await trio.testing.wait_all_tasks_blocked()
        assert ann.listening == [False]
        ann.links.connect(ends[1].address)
        await until(lambda: ann.failed)
        assert ann.failed == [(ends[1].address, "address already in use")]


async def test_a_port_that_another_program_gives_back_is_taken(
    ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTEN_AGAIN_S", 0.02)
    ann, bob = ends
    with socket.socket() as other:
        other.bind(("127.0.0.1", ann.port))
        ann.links.listen(wanted=True)
        await until(lambda: ann.listening)
    await until(lambda: len(ann.listening) == 2)
    assert ann.listening == [False, True]
    bob.links.connect(ann.address)
    await until(lambda: bob.up)


async def test_numbers_are_never_used_again_and_a_pair_of_ports_is_free_at_once(ends: tuple[End, End]) -> None:
    ann, bob = ends
    seen = set()
    for _ in range(3):
        ann.up.clear()
        bob.up.clear()
        at_ann, _ = await joined(ann, bob)
        seen.add(at_ann.via)
        ann.links.close(at_ann)
        await until(lambda: bob.lost)
        bob.lost.clear()
    assert len(seen) == 3
    assert ann.lost == []


# carrying


async def test_a_batch_arrives_whole_in_order_and_as_one(ends: tuple[End, End]) -> None:
    ann, bob = ends
    at_ann, at_bob = await joined(ann, bob)
    datagrams = [bytes((number,)) * 1400 for number in range(40)]
    ann.send(datagrams, at_ann)
    await until(lambda: len(bob.came) == 40)
    assert bob.came == [(datagram, target_of(at_bob)) for datagram in datagrams]
    assert bob.batches <= 3
    ann.send([bytes(MAX_FRAMED_BYTES), bytes(MAX_FRAMED_BYTES + 1), b""], at_ann)
    await until(lambda: len(bob.came) == 41)
    assert ann.drops == {Drop.OVERSIZE: 2}


async def test_what_was_written_last_arrives_before_the_connection_ends(ends: tuple[End, End]) -> None:
    ann, bob = ends
    at_ann, at_bob = await joined(ann, bob)
    ann.send([bytes(1000)] * 60, at_ann)
    ann.links.close(at_ann)
    await until(lambda: bob.lost)
    assert len(bob.came) == 60
    assert [link for link, _ in bob.lost] == [at_bob]
    ann.send([b"x"], at_ann)
    assert ann.drops == {Drop.NO_PATH: 1}


async def test_an_end_that_stops_still_says_so(nursery: trio.Nursery) -> None:
    ann, bob = End(), End()
    await nursery.start(bob.links.run)
    async with trio.open_nursery() as brief:
        await brief.start(ann.links.run)
        at_ann, _ = await joined(ann, bob)
        ann.send([b"goodbye"], at_ann)
        brief.cancel_scope.cancel()
    await until(lambda: bob.lost)
    assert [datagram for datagram, _ in bob.came] == [b"goodbye"]


async def test_a_reader_that_does_not_read_costs_old_frames_and_no_time(nursery: trio.Nursery) -> None:
    """What waited longer than a tenth of a second is gone; what was said last, and what is urgent, arrives."""
    clock = [0.0]
    ann = End(now=lambda: clock[0])
    await nursery.start(ann.links.run)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ann.links.connect(Address("127.0.0.1", listener.getsockname()[1], Transport.TCP))
        await until(lambda: ann.up)
        peer, _ = listener.accept()
    link = ann.up[0][0]
    with peer:
        sent = 0
        while not ann.drops:
            ann.send([b"\xf1" + sent.to_bytes(4) + bytes(1400)] * 16, link)
            sent += 16
            assert sent < 100_000
        clock[0] += 0.2
        ann.send([b"\xf2 urgent", b"\xf1 last" + bytes(1400)], link)
        lost = ann.drops[Drop.BACKPRESSURE]
        assert lost > 100
        received = b""
        peer.setblocking(False)
        with trio.fail_after(10):
            while not received.endswith(b"\xf1 last" + bytes(1400)):
                await trio.lowlevel.wait_readable(peer)
                received += peer.recv(1 << 20)
    kinds = []
    while received:
        length = int.from_bytes(received[:2])
        kinds.append(received[2 : 2 + length][:8])
        received = received[2 + length :]
    assert kinds[-2:] == [b"\xf2 urgent", b"\xf1 last\0\0"]
    assert len(kinds) + lost == sent + 2
    assert ann.drops == {Drop.BACKPRESSURE: lost}


async def test_the_other_ends_death_is_told_with_a_reason(ends: tuple[End, End]) -> None:
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    with socket.socket() as peer:
        peer.connect(("127.0.0.1", bob.port))
        await until(lambda: bob.up)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await until(lambda: bob.lost)
    assert bob.lost == [(bob.up[0][0], "connection reset by peer")]


# strangers


async def test_nothing_is_ever_written_to_a_stranger(ends: tuple[End, End], strangers: list[socket.socket]) -> None:
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    sock = await stranger(bob, strangers)
    sock.send(frame_datagram(b"\xf2 whoever this is, it is a piece"))
    await until(lambda: bob.came)
    link = bob.up[0][0]
    bob.send([b"an answer"], link)
    assert bob.drops == {Drop.NO_PATH: 1}
    with pytest.raises(BlockingIOError):
        sock.recv(100)
    bob.links.vouch(link)
    bob.send([b"an answer"], link)
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(sock)
    assert sock.recv(100) == frame_datagram(b"an answer")


async def test_a_stranger_that_never_stops_is_looked_at_now_and_then(
    ends: tuple[End, End], strangers: list[socket.socket]
) -> None:
    """Each datagram costs the core microseconds: a buffer full of them would hold up the frames of all others."""
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    sock = await stranger(bob, strangers)
    short = frame_datagram(b"\xf2" + bytes(24))
    sock.send(short * 1000)
    await until(lambda: bob.came)
    began = trio.current_time()
    await until(lambda: bob.batches == 3)
    assert trio.current_time() - began > 0.15
    assert len(bob.came) <= 3 * STRANGERS_BYTES // len(short)
    bob.links.vouch(bob.up[0][0])  # from now on as fast as it comes
    await until(lambda: len(bob.came) == 1000)
    assert bob.batches < 10


SHORT = frame_datagram(b"\xf2" + bytes(23)) + frame_datagram(b"\xf2" + bytes(1000))


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\xff" * 50, b"\0\1\xf2" * 500, b"\0\x20" * 99, SHORT]
)
async def test_a_stranger_that_speaks_something_else_is_closed_without_a_word(
    ends: tuple[End, End], strangers: list[socket.socket], noise: bytes
) -> None:
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    sock = await stranger(bob, strangers)
    sock.send(noise)
    await until(lambda: bob.lost)
    assert bob.lost == [(bob.up[0][0], "what came was no datagram")]
    with pytest.raises(ConnectionResetError):
        sock.recv(100)
    assert bob.came == []


async def test_a_stranger_that_shows_nothing_is_closed_and_a_peer_stays(
    ends: tuple[End, End], strangers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.shell.tcp_link.VOUCH_S", 0.1)
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(2):
        await stranger(bob, strangers)
    await until(lambda: len(bob.up) == 2)
    bob.links.vouch(bob.up[1][0])
    await until(lambda: bob.lost)
    assert bob.lost == [(bob.up[0][0], "nothing authentic came")]


async def test_one_source_has_few_strangers_and_a_peer_does_not_count(
    ends: tuple[End, End], strangers: list[socket.socket]
) -> None:
    ann, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(MAX_UNVOUCHED_PER_SOURCE + 3):
        await stranger(bob, strangers)
    await until(lambda: bob.links.refused == 3)
    assert len(bob.up) == MAX_UNVOUCHED_PER_SOURCE
    bob.links.vouch(bob.up[0][0])
    await stranger(bob, strangers)
    await until(lambda: len(bob.up) == MAX_UNVOUCHED_PER_SOURCE + 1)
    bob.links.connect(ann.address)  # who is asked for is no stranger
    await trio.testing.wait_all_tasks_blocked(0.01)
    ann.links.connect(bob.address)
    await until(lambda: any(asked == ann.address for _, asked in bob.up))


async def test_strangers_are_few_in_all(ends: tuple[End, End], strangers: list[socket.socket]) -> None:
    _, bob = ends
    bob.links.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    for number in range(70):
        sock = socket.socket()
        strangers.append(sock)
        sock.bind((f"127.0.1.{1 + number // 5}", 0))
        sock.connect(("127.0.0.1", bob.port))
        await trio.testing.wait_all_tasks_blocked()
    await until(lambda: bob.links.refused == 6)
    assert len(bob.up) == module.MAX_UNVOUCHED


# the own address


async def serve_stun(listener: socket.socket, asked: list[Address], *, silent_after: int = 1000) -> None:
    """Answers `silent_after` requests in all, then ends connections instead."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        stream, source = listener.accept()
        stream.setblocking(False)
        with stream:
            while True:
                await trio.lowlevel.wait_readable(stream)
                request = stream.recv(1000)
                if not request or len(asked) >= silent_after:
                    break
                asked.append(Address(source[0], source[1], Transport.TCP))
                answer = answer_binding(request, Address(*source))
                assert answer is not None
                stream.send(answer[:HEADER_BYTES])
                stream.send(answer[HEADER_BYTES:])


async def test_the_own_address_is_asked_for_from_the_port_that_is_listened_on(
    ends: tuple[End, End], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.shell.tcp_reflexive.ASK_INTERVAL_S", 0.05)
    ann, bob = ends
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        asked: list[Address] = []
        nursery.start_soon(lambda: serve_stun(listener, asked, silent_after=3))
        ann.links.handle_stun_servers([Address(*listener.getsockname()), Address("127.0.0.1", bob.port)])
        await trio.testing.wait_all_tasks_blocked()
        assert not asked
        ann.links.listen(wanted=True)
        await until(lambda: ann.reflexive)
        assert ann.reflexive == [(ann.address,)]
        await until(lambda: len(ann.reflexive) == 2)
        assert ann.reflexive[1] == ()
        assert asked == [ann.address] * 3
        nursery.cancel_scope.cancel()
