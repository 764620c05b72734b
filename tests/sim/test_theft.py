"""An endpoint's state in other hands: its first use is noticed by both real ends, and by nobody who did nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from fabric.core.entanglement import Entangle
from fabric.core.settings import Settings
from fabric.core.status import PeerState
from tests.sim.disk import Disk
from tests.sim.endpoint import Endpoint
from tests.sim.network import Policy
from tests.sim.place import Access
from tests.sim.seed import seed_of
from tests.sim.theft import Squatter, alarms_of, clone, copy_of, hints_of, key_thief, restore
from tests.sim.world import World, are_connected

pytestmark = pytest.mark.slow

USED_WITHIN_S = 10.0
NOTICED_WITHIN_S = 20.0
"""With the real one online: its next probe or record that gets no answer makes it ask for a new session."""

CONTACT_S = 5.0
"""With the real one off: from its start to the alarm at both ends."""

TOLD_WITHIN_S = 150.0
"""An alarmed client tells whoever answers, ever more rarely, up to a minute apart; the thief answers too."""

ENDS = ("client", "server")


def met(world: World, access: Access = Access.PUBLIC) -> tuple[Endpoint, Endpoint]:
    """Two that have shared a root for some time, over several sessions."""
    alpha, beta = world.pair(Access.PUBLIC, access)
    world.until_connected((alpha, beta))
    world.run_for(world.chance.uniform(1.0, 300.0))
    return alpha, beta


def victim_of(pair: tuple[Endpoint, Endpoint], end: str) -> tuple[Endpoint, Endpoint]:
    """The one that is copied, and its peer; the lower name is the client of every handshake."""
    alpha, beta = pair
    return (alpha, beta) if end == "client" else (beta, alpha)


def until_used(world: World, thief: Endpoint, peer: Endpoint) -> None:
    """The copy talks to the peer, or has been found already."""
    world.until(lambda: are_connected(thief, peer) or bool(alarms_of(peer)), USED_WITHIN_S)


def until_noticed(world: World, victim: Endpoint, peer: Endpoint, within_s: float) -> float:
    took = world.until(lambda: bool(alarms_of(victim) and alarms_of(peer)), within_s)
    world.run_for(0.1)
    assert victim.state_of(peer) is peer.state_of(victim) is PeerState.QUARANTINED
    return took


def robbed(world: World, end: str) -> tuple[Endpoint, Endpoint, Endpoint]:
    """Returns the victim, who has just come back, its peer and the thief, when all has been noticed."""
    victim, peer = victim_of(met(world), end)
    victim.kill()
    thief = clone(world, victim)
    thief.start()
    until_used(world, thief, peer)
    victim.start()
    until_noticed(world, victim, peer, CONTACT_S)
    return victim, peer, thief


def run_until_moved_on(world: World, endpoint: Endpoint, since: Disk) -> None:
    """Until the endpoint holds another root than it did then: a session that is not used lives for minutes."""

    def roots(disk: Disk) -> list[tuple[bytes, ...]]:
        return [record.entangled.roots for record in disk.load_records()]

    world.until(lambda: not set(*roots(since)) & set(*roots(endpoint.disk)), 3000.0)
    world.run_for(30.0)


def stay_apart(world: World, victim: Endpoint, peer: Endpoint, thief: Endpoint, for_s: float) -> None:
    """Neither the real pair nor the thief has a session from now on, over restarts too."""
    sessions = world.witness.handshakes.total(), thief_sessions(thief)
    victim.kill()
    peer.kill()
    world.run_for(for_s / 2)
    victim.start()
    peer.start()
    world.stays_apart(victim, peer, for_s / 2)
    assert victim.state_of(peer) is peer.state_of(victim) is PeerState.QUARANTINED
    assert (world.witness.handshakes.total(), thief_sessions(thief)) == sessions


def thief_sessions(thief: Endpoint) -> int:
    return thief.seen_by.handshakes.total()


@pytest.mark.parametrize("end", ENDS)
def test_a_copy_can_pass_as_the_original_until_its_next_contact(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    victim.kill()
    world.run_for(60.0)
    thief = clone(world, victim)
    thief.start()
    world.until(lambda: are_connected(thief, peer), USED_WITHIN_S)
    assert thief.ping(peer.name, 7)
    world.run_for(600.0)
    assert [pong.token for pong in thief.pongs()] == [7]
    assert are_connected(thief, peer)
    assert not alarms_of(peer)


@pytest.mark.parametrize("end", ENDS)
def test_a_copy_that_was_used_while_the_original_was_off_is_found_when_it_comes_back(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    victim.kill()
    world.run_for(60.0)
    thief = clone(world, victim)
    thief.start()
    until_used(world, thief, peer)
    world.run_for(world.chance.uniform(0.0, 600.0))
    victim.start()
    until_noticed(world, victim, peer, CONTACT_S)
    assert peer.path_to(victim) is None
    world.until(lambda: thief.path_to(peer) is None, 60.0)
    stay_apart(world, victim, peer, thief, 120.0)


@pytest.mark.parametrize("end", ENDS)
def test_a_copy_that_is_used_beside_the_original_is_found_in_seconds(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    thief = clone(world, victim)
    thief.start()
    until_used(world, thief, peer)
    until_noticed(world, victim, peer, NOTICED_WITHIN_S)
    stay_apart(world, victim, peer, thief, 120.0)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_copy_that_is_gone_again_is_found_all_the_same(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    victim.stop()
    thief = clone(world, victim)
    thief.start()
    until_used(world, thief, peer)
    thief.kill()
    world.run_for(600.0)
    victim.start()
    until_noticed(world, victim, peer, 4 * CONTACT_S)


@pytest.mark.parametrize("end", ENDS)
def test_an_old_copy_is_found_before_it_is_of_any_use(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    old = copy_of(victim.disk)
    run_until_moved_on(world, victim, old)
    thief = clone(world, victim, disk=old)
    thief.start()
    until_noticed(world, victim, peer, NOTICED_WITHIN_S)
    assert thief_sessions(thief) == 0


@pytest.mark.parametrize("end", ENDS)
def test_the_alarm_tells_when_and_where_the_other_copy_was(world: World, end: str) -> None:
    """One of the two encounters that it names was with the thief."""
    victim, peer = victim_of(met(world), end)
    victim.kill()
    world.run_for(60.0)
    thief = clone(world, victim)
    thief.start()
    until_used(world, thief, peer)
    used = world.unix
    world.run_for(300.0)
    back = world.unix
    victim.start()
    until_noticed(world, victim, peer, CONTACT_S)
    (_, event), *_ = alarms_of(peer)
    assert event.alarm.before is not None
    assert event.alarm.before.remote == f"{thief.outside_ip}:{thief.port}"
    assert used - USED_WITHIN_S < event.alarm.before.unix <= event.alarm.at.unix
    assert event.alarm.at.unix >= back
    assert event.alarm.at.remote == f"{victim.outside_ip}:{victim.port}"
    for one, other in ((victim, peer), (peer, victim)):
        why = one.status()[other.name].why
        assert "copied, or restored from a backup" in why
        assert "`fabric trust reset" in why
    assert f"{thief.outside_ip}:{thief.port}" in peer.status()[victim.name].why


OVER_UDP, OVER_TLS = Access.SYMMETRIC, Access.WEB_ONLY
"""Two at such places meet at a relay and nowhere else; there, the second has another way than the first."""

HINTED_WITHIN_S = 60.0
"""Three times the channel has to be found gone; each time a path is missed for seconds before the relay is asked."""

AT_ONE_RELAY_S = 60.0
"""A relay sends DATA to one of the two, and the other has to notice that its session is dead, and try again."""


@pytest.mark.parametrize("is_on", [True, False], ids=["original on", "original off"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("others", [OVER_UDP, OVER_TLS], ids=["peer over UDP", "peer over TLS"])
@pytest.mark.parametrize("stolen", [OVER_UDP, OVER_TLS], ids=["copy over UDP", "copy over TLS"])
@pytest.mark.parametrize("own", [OVER_UDP, OVER_TLS], ids=["original over UDP", "original over TLS"])
def test_a_copy_behind_the_only_relay_is_found_while_it_stays_there(
    request: pytest.FixtureRequest,
    watched: Callable[[World], World],
    own: Access,
    stolen: Access,
    others: Access,
    end: str,
    is_on: bool,
) -> None:
    world = watched(World(seed_of(request.node.nodeid), relays=1))
    ends = {"alpha": own, "beta": others} if end == "client" else {"alpha": others, "beta": own}
    alpha, beta = world.pair(ends["alpha"], ends["beta"])
    world.until_connected((alpha, beta), within_s=20.0)
    world.run_for(world.chance.uniform(1.0, 200.0))
    victim, peer = victim_of((alpha, beta), end)
    if not is_on:
        victim.kill()
    thief = clone(world, victim, stolen)
    thief.start()
    if not is_on:
        world.until(lambda: are_connected(thief, peer), 20.0)
        victim.start()
    until_noticed(world, victim, peer, AT_ONE_RELAY_S)
    assert thief.node is not None


@pytest.mark.parametrize("pace_s", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("end", ENDS)
def test_who_keeps_taking_the_channel_at_the_only_relay_is_told_of_and_accused_of_nothing(
    request: pytest.FixtureRequest, watched: Callable[[World], World], end: str, pace_s: float
) -> None:
    """It is the relay that says so: nobody is quarantined for it."""
    world = watched(World(seed_of(request.node.nodeid), relays=1))
    alpha, beta = world.pair(OVER_UDP, OVER_UDP)
    world.until_connected((alpha, beta), within_s=20.0)
    world.run_for(world.chance.uniform(1.0, 200.0))
    victim, peer = victim_of((alpha, beta), end)
    squatter = Squatter(world, victim, peer, world.relays[0], pace_s)
    world.until(lambda: bool(hints_of(victim)), HINTED_WITHIN_S)
    assert squatter.taken > 0
    why = victim.status()[peer.name].why
    assert world.relays[0].ip in why
    assert "a copy of this endpoint may be in use, or the relay is wrong" in why
    squatter.stop()
    world.until_frames_pass(victim, peer, within_s=90.0)
    world.run_for(900.0)
    assert "a copy of this endpoint" not in victim.status()[peer.name].why
    assert len(hints_of(victim)) == 1
    assert not hints_of(peer) + alarms_of(victim) + alarms_of(peer)


@pytest.mark.parametrize("others", [OVER_UDP, OVER_TLS], ids=["peer over UDP", "peer over TLS"])
def test_a_copy_whose_friend_keeps_the_channel_is_hinted_at_and_found_when_he_lets_go(
    request: pytest.FixtureRequest, watched: Callable[[World], World], others: Access
) -> None:
    """What a thief can do who has more than a copied image: the original has a hint meanwhile, and no proof."""
    world = watched(World(seed_of(request.node.nodeid), relays=1))
    peer, victim = world.pair(others, OVER_UDP)
    world.until_connected((peer, victim), within_s=20.0)
    world.run_for(world.chance.uniform(1.0, 200.0))
    squatter = Squatter(world, victim, peer, world.relays[0], pace_s=0.3)
    thief = clone(world, victim, OVER_TLS)
    thief.start()
    world.until(lambda: are_connected(thief, peer), 120.0)
    world.until(lambda: bool(hints_of(victim)), HINTED_WITHIN_S)
    world.run_for(120.0)
    assert thief_sessions(thief) > 0
    assert "a copy of this endpoint may be in use" in victim.status()[peer.name].why
    assert not alarms_of(victim) + alarms_of(peer)
    squatter.stop()
    until_noticed(world, victim, peer, 120.0)


@pytest.mark.parametrize("own", [OVER_UDP, OVER_TLS, Access.PORT_RESTRICTED])
def test_nobody_is_suspected_who_moves_restarts_or_gets_another_address(
    request: pytest.FixtureRequest, watched: Callable[[World], World], own: Access
) -> None:
    world = watched(World(seed_of(request.node.nodeid), relays=2))
    alpha, beta = world.pair(own, OVER_UDP)
    world.until_connected((alpha, beta), within_s=20.0)
    for _ in range(100):
        assert alpha.place is not None
        match world.chance.randrange(6):
            case 0:
                alpha.sit(world.atlas.make(world.chance.choice((OVER_UDP, OVER_TLS))))
            case 1:
                alpha.kill()
                alpha.start()
            case 2:
                alpha.place.renumber(world.atlas.public_ip())
            case 3:
                alpha.place.set_policy(world.chance.choice(list(Policy)))
            case 4:
                relay = world.chance.choice(world.relays)
                relay.kill()
                relay.start()
            case 5:
                alpha.place.reboot_routers()
        world.run_for(world.chance.choice((0.3, 3.0, 12.0, 25.0)))
    assert not hints_of(alpha) + hints_of(beta)


@pytest.mark.parametrize("is_on", [True, False], ids=["original on", "original off"])
@pytest.mark.parametrize("end", ENDS)
def test_the_identity_key_alone_makes_no_session_and_collides_at_once(world: World, end: str, is_on: bool) -> None:
    victim, peer = victim_of(met(world), end)
    if not is_on:
        victim.kill()
        world.run_for(60.0)
    thief = key_thief(world, victim)
    thief.start()
    world.until(lambda: bool(alarms_of(peer)), USED_WITHIN_S + 10.0)
    assert thief_sessions(thief) == 0
    assert thief.path_to(peer) is None
    if not is_on:
        victim.start()
    until_noticed(world, victim, peer, TOLD_WITHIN_S)
    assert thief_sessions(thief) == 0


def test_the_identity_key_alone_can_begin_with_whom_its_owner_never_met(world: World) -> None:
    """There is no state yet that could not fit; the owner's first contact shows it."""
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.PUBLIC)
    alpha.add(beta.name)
    world.run_for(2.0)
    alpha.kill()
    thief = key_thief(world, alpha)
    thief.start()
    beta.add(alpha.name)
    world.until(lambda: are_connected(thief, beta), USED_WITHIN_S)
    alpha.start()
    world.until(lambda: bool(alarms_of(beta)), NOTICED_WITHIN_S)
    world.run_for(0.1)
    assert not are_connected(thief, beta)
    assert alpha.state_of(beta) is not PeerState.CONNECTED
    assert "refuses this endpoint" in alpha.status()[beta.name].why


@pytest.mark.parametrize("end", ENDS)
def test_a_backup_that_is_restored_collides_and_a_reset_on_both_sides_mends_it(world: World, end: str) -> None:
    victim, peer = victim_of(met(world), end)
    backup = copy_of(victim.disk)
    run_until_moved_on(world, victim, backup)
    victim.kill()
    restore(victim, backup)
    victim.start()
    until_noticed(world, victim, peer, CONTACT_S)
    for one, other in ((victim, peer), (peer, victim)):
        world.stays_apart(victim, peer, 30.0)
        one.reset_trust(other.name)
    world.until_frames_pass(victim, peer, within_s=90.0)


PAST_A_BUNDLE_S = 8 * 86_400.0


def run_for_weeks(world: World, one: Endpoint, other: Endpoint) -> None:
    """Both are off most of the time, and make a new key bundle whenever they are back."""
    for _ in range(3):
        one.kill()
        other.kill()
        world.run_for(PAST_A_BUNDLE_S)
        one.start()
        other.start()
        world.until_connected((one, other))


def lose_bundle(world: World, one: Endpoint, other: Endpoint) -> None:
    """The second makes another one, though the last is not old."""
    other.kill()
    other.disk.bundle, other.disk.secrets = None, []
    other.start()
    world.until_connected((one, other))
    world.run_for(1000.0)


@pytest.mark.slow
@pytest.mark.parametrize("pass_time", [run_for_weeks, lose_bundle])
def test_a_restored_backup_is_reached_again_though_its_key_bundle_is_another(
    request: pytest.FixtureRequest,
    watched: Callable[[World], World],
    pass_time: Callable[[World, Endpoint, Endpoint], None],
) -> None:
    """Peers seal to a bundle that is not in it: it makes one that is newer than any that it ever made."""
    world = watched(World(seed_of(request.node.nodeid), certificate_life_s=90 * 86_400.0))
    alpha, beta = world.pair(Access.PORT_RESTRICTED, Access.PORT_RESTRICTED)
    world.until_connected((alpha, beta))
    world.run_for(30.0)
    backup = copy_of(beta.disk)
    pass_time(world, alpha, beta)
    beta.kill()
    restore(beta, backup)
    beta.start()
    until_noticed(world, beta, alpha, CONTACT_S)
    for one, other in ((alpha, beta), (beta, alpha)):
        one.reset_trust(other.name)
        one.sit(world.atlas.make(Access.PORT_RESTRICTED))
    world.until_connected((alpha, beta), within_s=120.0)


@pytest.mark.parametrize("end", ENDS)
def test_a_backup_of_now_is_no_collision(world: World, end: str) -> None:
    """Nothing has moved on since: there is nothing to be alarmed about."""
    victim, peer = victim_of(met(world), end)
    victim.kill()
    restore(victim, copy_of(victim.disk))
    world.run_for(300.0)
    victim.start()
    world.until_frames_pass(victim, peer)
    assert not alarms_of(victim) + alarms_of(peer)


def test_both_ends_set_back_alike_is_what_nobody_can_see(world: World) -> None:
    alpha, beta = met(world)
    backups = [(end, copy_of(end.disk)) for end in (alpha, beta)]
    run_until_moved_on(world, alpha, backups[0][1])
    for end, backup in backups:
        end.kill()
        restore(end, backup)
    for end, _ in backups:
        end.start()
    world.until_frames_pass(alpha, beta)
    assert not alarms_of(alpha) + alarms_of(beta)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_reset_without_a_new_key_does_not_let_the_thief_stay_unnoticed(world: World, end: str) -> None:
    """Who was robbed is to revoke and to enrol anew; who only resets is robbed again, and told again."""
    victim, peer, thief = robbed(world, end)
    victim.kill()
    for endpoint, other in ((thief, peer), (peer, victim)):
        endpoint.reset_trust(other.name)
    world.until(lambda: are_connected(thief, peer), 120.0)
    victim.start()
    victim.reset_trust(peer.name)
    world.until(lambda: len(alarms_of(peer)) == 2, NOTICED_WITHIN_S)
    world.run_for(0.1)
    assert not are_connected(thief, peer)
    assert victim.state_of(peer) is not PeerState.CONNECTED


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_revoked_thief_stays_out_and_the_robbed_one_is_back_under_a_new_key(world: World, end: str) -> None:
    victim, peer, thief = robbed(world, end)
    world.revoke(victim)
    victim.kill()
    peer.reset_trust(victim.name, key=True)
    world.run_for(60.0)
    assert thief.path_to(peer) is None
    assert peer.path_to(victim) is None
    assert not peer.disk.load_records()[0].entangled.roots


@pytest.mark.parametrize("mode", [Entangle.ALERT, Entangle.OFF])
def test_where_collisions_are_let_pass_the_original_gets_in_again(world: World, mode: Entangle) -> None:
    """`alert` tells of it where it is seen, `off` does not; neither keeps the pair apart."""
    settings = Settings(entangle=mode)
    alpha = world.endpoint("alpha", Access.PUBLIC, settings=settings)
    beta = world.endpoint("beta", Access.PUBLIC, settings=settings)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_connected((alpha, beta))
    backup = copy_of(alpha.disk)
    run_until_moved_on(world, alpha, backup)
    alpha.kill()
    restore(alpha, backup)
    alpha.start()
    world.until_frames_pass(alpha, beta, within_s=30.0)
    assert bool(alarms_of(alpha) + alarms_of(beta)) is (mode is Entangle.ALERT)


CLONES = 24


@pytest.mark.slow
def test_every_clone_that_was_used_is_found(request: pytest.FixtureRequest) -> None:
    """Either end, any place, on or off, a copy of now or of some time ago, that stays or leaves."""
    trials = [Trial(seed_of(f"{request.node.nodeid} {number}")) for number in range(CLONES)]
    assert not [trial for trial in trials if not trial.is_found()]
    assert sum(trial.is_used for trial in trials) > CLONES / 3


class Trial:
    """One clone, with everything about it drawn from `seed`. It is of use once the peer has sealed anything for it."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.seed = seed
        self.end = chance.choice(ENDS)
        self.is_on = chance.random() < 0.5
        self.age_s = chance.choice((0.0, 0.0, chance.uniform(0.0, 900.0)))
        self.stays = chance.random() < 0.5
        places = [access for access in Access if access not in (Access.SYMMETRIC, Access.SEQUENTIAL)]
        self.access, self.thief_access = chance.choice(places), chance.choice(places)
        self.is_used = False
        self.to_alarm_s: float | None = None

    def is_found(self) -> bool:
        """False for a copy that had a session, and of which the two real ends know nothing."""
        world = World(self.seed, relays=2)
        victim, peer = victim_of(met(world, self.access), self.end)
        old = copy_of(victim.disk)
        world.run_for(self.age_s)
        if not self.is_on:
            victim.kill()
        thief = clone(world, victim, self.thief_access, old)
        thief.start()
        begun = world.now
        world.schedule.run_until_true(lambda: thief.path_to(peer) is not None or bool(alarms_of(peer)), 60.0)
        world.run_for(1.0)
        self.is_used = thief.node is not None and thief.status()[peer.name].last_seen_s is not None
        if not self.stays:
            thief.kill()
        if not self.is_on:
            world.run_for(world.chance.uniform(0.0, 300.0))
            begun = world.now
            victim.start()
        if not world.schedule.run_until_true(lambda: bool(alarms_of(victim) and alarms_of(peer)), 300.0):
            return not self.is_used
        self.to_alarm_s = world.now - begun
        return True

    def __repr__(self) -> str:
        return f"Trial({vars(self)})"
