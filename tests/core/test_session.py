"""Which session seals, which still open, and when each ends, seen through a lane that writes down its orders."""

from __future__ import annotations

from fabric.core.session import Sessions
from fabric.core.settings import Settings
from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Lane, SessionKeys
from tests.core.fake_lane import FakeLane

SETTINGS = Settings(rekey_after_s=120.0, session_life_s=180.0, straggler_s=10.0)


def keys(index: int) -> SessionKeys:
    return SessionKeys("b.home", index, index + 100, Suite.CHACHA20_POLY1305, bytes(32), bytes(32))


def make() -> tuple[FakeLane, Sessions]:
    lane = FakeLane()
    checked: Lane = lane
    return lane, Sessions(checked, SETTINGS)


def test_a_client_seals_only_after_the_first_record() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=True, ends=1e9, now=0.0)
    assert lane.sealing is None
    assert sessions.live is None
    assert sessions.confirm(1, 0.1)
    assert lane.sealing == 1


def test_a_server_is_live_at_once() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    assert lane.sealing == 1


def test_old_keys_serve_stragglers_and_are_wiped() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.install(keys(2), awaiting=False, ends=1e9, now=120.0)
    assert lane.sealing == 2
    assert lane.installed == {1, 2}
    assert sessions.next_timeout() == 130.0
    sessions.handle_timeout(130.0)
    assert lane.installed == {2}
    assert not sessions.holds(1)


def test_a_newer_attempt_replaces_the_one_that_waits_and_leaves_the_live_one() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.install(keys(2), awaiting=True, ends=1e9, now=1.0)
    sessions.install(keys(3), awaiting=True, ends=1e9, now=2.0)
    assert lane.installed == {1, 3}
    assert not sessions.confirm(2, 3.0)
    assert lane.sealing == 1


def test_a_session_ends_with_the_certificate() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=50.0, now=0.0)
    assert not sessions.handle_timeout(49.9)
    assert sessions.handle_timeout(50.0)
    assert lane.installed == set()


def test_an_earlier_end_shortens_a_running_session() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.bound(10.0)
    assert sessions.next_timeout() == 10.0
    assert sessions.handle_timeout(10.0)
    assert lane.installed == set()


def test_a_session_without_rekey_ends_of_itself() -> None:
    _, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.note_used(1, 4, 1.0)
    assert not sessions.is_rekey_due(119.0)
    assert sessions.is_rekey_due(120.0)
    assert not sessions.is_rekey_due(125.0, margin_s=10.0)
    assert not sessions.handle_timeout(180.0)
    assert sessions.handle_timeout(181.0)


def test_what_an_idle_host_says_by_itself_does_not_make_a_session_a_used_one() -> None:
    _, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    for minute in range(10):
        sessions.note_used(1, 2, minute * 30.0)
    assert not sessions.is_rekey_due(299.0)


def test_a_session_that_seals_no_frame_lives_longer_but_not_for_ever() -> None:
    _, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    assert not sessions.is_rekey_due(299.0)
    assert sessions.is_rekey_due(300.0)
    assert not sessions.handle_timeout(449.0)
    assert sessions.handle_timeout(450.0)


def test_the_first_frame_after_a_pause_makes_a_rekey_due_at_once_and_bounds_the_life() -> None:
    _, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.note_used(1, 4, 200.0)
    assert sessions.is_rekey_due(200.0)
    assert sessions.handle_timeout(380.0)


def test_many_records_make_a_rekey_due_before_its_time() -> None:
    _, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    assert sessions.live is not None
    sessions.live.highest_counter = 2**30
    assert sessions.is_rekey_due(1.0)


def test_the_end_wipes_everything() -> None:
    lane, sessions = make()
    sessions.install(keys(1), awaiting=False, ends=1e9, now=0.0)
    sessions.install(keys(2), awaiting=False, ends=1e9, now=1.0)
    sessions.install(keys(3), awaiting=True, ends=1e9, now=2.0)
    sessions.end()
    assert lane.installed == set()
    assert sessions.next_timeout() is None
