"""What waits for a TCP connection: bounded in bytes and age, urgent first, and never a half datagram."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fabric.dataplane.contract import Drop
from fabric.shell.framing import Unframer, frame_datagram
from fabric.shell.outbox import MAX_FRAME_AGE_S, MAX_URGENT_AGE_S, MAX_WAITING_BYTES, Outbox
from fabric.wire.address import Target, Transport

SOURCE: Target = ("192.0.2.1", 7, Transport.TCP, 3)
FRAME = b"\xf1" + bytes(1399)
GATED = b"\xf2" + bytes(999)
SHORT = b"\xf1" + bytes(80)


def outbox() -> tuple[Outbox, Counter[Drop]]:
    drops: Counter[Drop] = Counter()
    return Outbox(drops), drops


def test_urgent_datagrams_go_first_and_each_kind_in_order() -> None:
    box, drops = outbox()
    for datagram in (FRAME, SHORT, FRAME + b"2", GATED):
        box.put(datagram, 0.0)
    assert box.gather(0.0) == [frame_datagram(each) for each in (SHORT, GATED, FRAME, FRAME + b"2")]
    assert not drops


def test_frames_that_waited_too_long_are_dropped_and_counted() -> None:
    box, drops = outbox()
    box.put(FRAME, 0.0)
    box.put(SHORT, 0.0)
    box.put(FRAME, 0.05)
    assert box.gather(MAX_FRAME_AGE_S + 0.01) == [frame_datagram(SHORT), frame_datagram(FRAME)]
    assert drops == {Drop.BACKPRESSURE: 1}
    assert box.gather(MAX_URGENT_AGE_S + 0.01) == []
    assert drops == {Drop.BACKPRESSURE: 3}
    assert not box


def test_what_has_begun_is_finished_however_old() -> None:
    box, _ = outbox()
    box.put(FRAME, 0.0)
    box.gather(0.0)
    box.handle_sent(100)
    box.put(SHORT, 60.0)
    assert box.gather(60.0) == [frame_datagram(FRAME)[100:], frame_datagram(SHORT)]


def test_bytes_are_bounded_and_frames_make_room_for_what_is_urgent() -> None:
    box, drops = outbox()
    for _ in range(400):
        box.put(FRAME, 0.0)
    kept = MAX_WAITING_BYTES // (len(FRAME) + 2)
    assert drops == {Drop.BACKPRESSURE: 400 - kept}
    for _ in range(100):
        box.put(GATED, 0.0)
    assert box.waiting_bytes <= MAX_WAITING_BYTES
    urgent = []
    while (gathered := box.gather(0.0)) and gathered[0][2:3] == b"\xf2":
        urgent += [each for each in gathered if each[2:3] == b"\xf2"]
        box.handle_sent(sum(map(len, gathered)))
    assert len(urgent) == 100


def test_only_urgent_things_waiting_are_bounded_as_well() -> None:
    box, drops = outbox()
    for _ in range(400):
        box.put(GATED, 0.0)
    assert box.waiting_bytes <= MAX_WAITING_BYTES
    assert drops == {Drop.BACKPRESSURE: 400 - MAX_WAITING_BYTES // (len(GATED) + 2)}
    box.clear()
    assert not box
    assert drops == {Drop.BACKPRESSURE: 400}
    assert box.waiting_bytes == 0


steps = st.lists(
    st.tuples(st.integers(1, 3000), st.booleans(), st.floats(0, 0.08), st.integers(0, 20_000)), max_size=60
)


@given(steps)
def test_whatever_the_kernel_takes_the_stream_stays_in_step(plan: list[tuple[int, bool, float, int]]) -> None:
    box, drops = outbox()
    unframer = Unframer(SOURCE)
    now, sent, came = 0.0, 0, []

    def write(count: int) -> None:
        stream = b"".join(box.gather(now))
        came.extend(unframer.take(stream[:count]))
        box.handle_sent(min(count, len(stream)))

    for length, is_gated, passed, taken in plan:
        now += passed
        box.put((b"\xf2" if is_gated else b"\xf1") + bytes(length), now)
        sent += 1
        write(taken)
    while box:
        write(1 << 20)
    assert len(came) + drops[Drop.BACKPRESSURE] == sent
    assert box.waiting_bytes == 0
    assert unframer._rest == b""
