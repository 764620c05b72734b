"""The learning switch, against a model of plain dictionaries, and its bounds one by one."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fabric.core.switch import AGE_S, MAX_LEARNED, MAX_LEARNED_PER_PORT, SWEEP_S, Switch

OWN = b"\x02own.0"
PORTS = ("ann", "bob", "cem")
MACS = [bytes((2, 0, 0, 0, 0, n)) for n in range(6)]
ports = st.sampled_from(PORTS)
macs = st.sampled_from([*MACS, OWN, b"\xff" * 6, b"\x01\x80\xc2\0\0\0"])


def mac_of(number: int) -> bytes:
    return b"\x02\x11" + number.to_bytes(4)


class SwitchAgainstModel(RuleBasedStateMachine):
    """`seen` is all that was ever learned, with its port and instant; nothing is forgotten by the model's own clock
    but what `age` may forget."""

    def __init__(self) -> None:
        super().__init__()
        self.switch: Switch[str] = Switch(OWN)
        self.static: dict[str, bytes] = {}
        self.learned: dict[bytes, tuple[str, float]] = {}
        self.now = 0.0

    @rule(port=ports, mac=st.sampled_from([*MACS, OWN]))
    def add(self, port: str, mac: bytes) -> None:
        taken = mac == OWN or any(owner != port for owner, held in self.static.items() if held == mac)
        assert self.switch.add(port, mac) is not taken
        if not taken:
            self.static[port] = mac
            self.learned.pop(mac, None)

    @rule(port=ports)
    def remove(self, port: str) -> None:
        self.switch.remove(port)
        self.static.pop(port, None)
        self.learned = {mac: entry for mac, entry in self.learned.items() if entry[0] != port}

    @rule(mac=macs, port=ports)
    def learn(self, mac: bytes, port: str) -> None:
        owner = next((owner for owner, held in self.static.items() if held == mac), None)
        allowed = port in self.static and mac != OWN and not mac[0] & 1 and owner in (None, port)
        assert self.switch.learn(mac, port, self.now) is allowed
        if allowed and owner is None:
            self.learned[mac] = (port, self.now)

    @rule(seconds=st.sampled_from([1.0, SWEEP_S, AGE_S - SWEEP_S, AGE_S + SWEEP_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.switch.age(self.now)
        for mac, (_, seen) in list(self.learned.items()):
            if seen + AGE_S <= self.now and self.switch.look_up(mac) is None:
                del self.learned[mac]
            elif seen + AGE_S + SWEEP_S <= self.now:
                raise AssertionError("a MAC outlived its age by more than a sweep")

    @invariant()
    def looks_up_what_was_learned(self) -> None:
        expected = {mac: port for mac, (port, _) in self.learned.items()}
        expected |= {mac: port for port, mac in self.static.items()}
        assert {mac: port for mac in MACS if (port := self.switch.look_up(mac)) is not None} == expected
        assert self.switch.look_up(OWN) is None
        assert set(self.switch.flood()) == set(self.static)
        assert (self.switch.next_timeout() is not None) or not self.learned


TestSwitchAgainstModel = SwitchAgainstModel.TestCase


def test_a_static_mac_cannot_be_learned_away() -> None:
    switch: Switch[str] = Switch(OWN)
    switch.add("ann", MACS[0])
    switch.add("bob", MACS[1])
    assert not switch.learn(MACS[0], "bob", 0.0)
    assert switch.look_up(MACS[0]) == "ann"


def test_a_station_that_moves_is_found_where_it_was_seen_last() -> None:
    switch: Switch[str] = Switch(OWN)
    switch.add("ann", MACS[0])
    switch.add("bob", MACS[1])
    switch.learn(MACS[5], "ann", 0.0)
    switch.learn(MACS[5], "bob", 1.0)
    assert switch.look_up(MACS[5]) == "bob"
    switch.remove("ann")
    assert switch.look_up(MACS[5]) == "bob"


def test_a_port_that_floods_macs_fills_its_own_share_only() -> None:
    switch: Switch[str] = Switch(OWN)
    switch.add("ann", MACS[0])
    switch.add("bob", MACS[1])
    for number in range(MAX_LEARNED_PER_PORT + 50):
        assert switch.learn(mac_of(number), "ann", 0.0)
    assert switch.look_up(mac_of(MAX_LEARNED_PER_PORT - 1)) == "ann"
    assert switch.look_up(mac_of(MAX_LEARNED_PER_PORT)) is None
    assert switch.learn(mac_of(10**6), "bob", 0.0)
    assert switch.look_up(mac_of(10**6)) == "bob"


def test_all_ports_together_stay_within_the_table() -> None:
    switch: Switch[int] = Switch(OWN)
    for port in range(MAX_LEARNED // MAX_LEARNED_PER_PORT + 2):
        switch.add(port, bytes((2, 9, 0, 0, 0, port)))
        for number in range(MAX_LEARNED_PER_PORT):
            switch.learn(mac_of(port << 16 | number), port, 0.0)
    known = sum(
        switch.look_up(mac_of(port << 16 | number)) is not None
        for port in switch.flood()
        for number in range(MAX_LEARNED_PER_PORT)
    )
    assert known == MAX_LEARNED
