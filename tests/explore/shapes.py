"""What an end is, apart from what things are called: its whole state as a value, with the names pulled out.

Two ends of one shape do the same with the same input, whatever their names are, for the machines only ever compare
names. So each step of an end is taken by the real machine once, and remembered. The state is read off the objects
themselves, every slot of them: a field that a machine gets later is part of the shape by itself, and one of a kind
that is not known here is an error.

Left out are the counts that only stretch waits (failures, refusals, tokens), and times but for their order.
"""

from __future__ import annotations

import copy
import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from fabric.core.entanglement import Encounter
from fabric.core.keying import Keying
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.session import Session, Sessions
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address
from tests.explore import symbolic
from tests.explore.end import End
from tests.explore.stage import CLIENT, FAR_S, SERVER, town

Names = tuple[int, ...]

LEFT_OUT: dict[type, frozenset[str]] = {
    Keying: frozenset({"_around", "_holder", "_peer", "_failures"}),
    ClientNegotiation: frozenset({"_pair", "_failures", "_refusals", "_begun_at", "may_begin_at"}),
    ServerNegotiation: frozenset({"_pair", "_pace"}),
    Sessions: frozenset({"_lane", "_settings", "_talk"}),
    Session: frozenset({"started", "used", "suite"}),
    Encounter: frozenset({"unix"}),
    symbolic.SymbolicClient: frozenset({"_check", "_draw", "_peer"}),
    symbolic.SymbolicResume: frozenset({"_peer"}),
    symbolic.SymbolicServer: frozenset({"_check", "_peer"}),
}


@dataclass(frozen=True, slots=True)
class Local:
    """The same for every end of this shape. `names` are what `end`, the first one seen, calls things, in order.

    The rest are places in `names`: `roots` of the disk; `live` as (own index, other's index, exporter, root);
    `opens` as (index, exporter, root); `asks` of the attempt that is under way; `awaits` of a server's FINISH,
    and `took`, the FINISH that it would know again. -1 stands for no name.
    """

    number: int
    end: End
    names: Names
    roots: tuple[int, ...]
    live: tuple[int, int, int] | None
    opens: frozenset[tuple[int, int]]
    asks: int | None
    awaits: int | None
    took: tuple[int, ...] | None
    is_up: bool
    is_confirmed: bool
    is_alarmed: bool
    is_known: bool
    is_refused: bool
    is_waiting: bool
    is_straggling: bool
    met: tuple[str, ...]


class Reader:
    """Reads one end: `names` in order of first appearance, and its state as nested tuples."""

    def __init__(self, end: End) -> None:
        self.names: dict[int, int] = {}
        self._now = end.now
        self._times: list[float] = []
        self.state = self._read_end(end)
        order = {at: rank for rank, at in enumerate(sorted({self._now, *self._times}))}
        self.state = (self.state, tuple(order[at] for at in self._times), order[self._now])

    def place(self, name: int) -> int:
        if name < symbolic.FIRST_NAME:
            return -1
        return self.names.setdefault(name, len(self.names))

    def _read_end(self, end: End) -> Any:
        disk = self.read(end.disk)
        if not end.is_up:
            return (end.name, disk, None)
        memory = self.read(end.entangled) if end.entangled != end.disk else None
        keys = [(self.place(index), self.read(keys)) for index, keys in end.keys.items()]
        return (end.name, disk, memory, self.read(end.keying), tuple(keys), end.is_refused)

    def read(self, value: Any) -> Any:  # noqa: PLR0911 -- one line a kind
        match value:
            case None | bool() | str() | enum.Enum():
                return value
            case int():
                return value if value < symbolic.FIRST_NAME else ("name", self.place(value))
            case float():
                if value - self._now > FAR_S:
                    return "far"
                self._times.append(value)
                return "at"
            case bytes():
                return self._read_bytes(value)
            case tuple() | list() | deque():
                return tuple([self.read(item) for item in value])
            case dict():
                items = list(value.items())
                if items and isinstance(items[0][0], enum.Enum):
                    items.sort(key=lambda item: item[0].name)
                return tuple([(self.read(key), self.read(item)) for key, item in items])
            case Address():
                return str(value)
            case Certificate():
                return "certificate"
        return self._read_object(value)

    def _read_bytes(self, value: bytes) -> Any:
        name = symbolic.name_of(value)
        if name is not None:
            return ("root", self.place(name))
        message = symbolic.message_of(value)
        if message is None and len(value) % 4:
            raise TypeError(f"{len(value)} bytes that were not made here")
        return tuple([self.place(word) if word >= symbolic.FIRST_NAME else ("", word)
                      for word in symbolic.words(message if message is not None else value)])  # fmt: skip

    def _read_object(self, value: Any) -> Any:
        kind = type(value)
        fields = _fields(kind, value)
        if fields is None:
            raise TypeError(f"a {kind.__name__} among what an end knows")
        return (kind.__name__, *[self.read(getattr(value, field)) for field in fields])


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields(kind: type, value: Any) -> tuple[str, ...] | None:
    if kind not in _FIELDS:
        if isinstance(value, msgspec.Struct):
            names = value.__struct_fields__
        elif hasattr(kind, "__slots__"):
            names = tuple(kind.__slots__)
        elif kind.__module__.startswith("fabric.core"):
            names = tuple(vars(value))
        else:
            return None
        left_out = LEFT_OUT.get(kind, frozenset())
        _FIELDS[kind] = tuple(name for name in names if name not in left_out)
    return _FIELDS[kind]


class Shapes:
    """Every shape that was seen, each with one end of it to go on from."""

    def __init__(self) -> None:
        self._known: dict[Any, Local] = {}
        self.all: list[Local] = []

    def take(self, end: End) -> tuple[Local, Names]:
        """Returns the shape of `end`, and its names in order. The shape may keep the end: hand it to nobody else."""
        reader = Reader(end)
        names = tuple(reader.names)
        known = self._known.get(reader.state)
        if known is None:
            known = self._known[reader.state] = _describe(len(self.all), end, reader, names)
            self.all.append(known)
        return known, names


def _describe(number: int, end: End, reader: Reader, names: Names) -> Local:
    def place(name: int) -> int:
        return reader.names.get(name, -1)

    attempt = pending = finished = None
    match end.keying._negotiation:
        case ClientNegotiation() as client:
            attempt = client._attempt
        case ServerNegotiation() as server:
            pending, finished = server._pending, server._finished
    live = end.keying.live
    alarm = (end.entangled if end.is_up else end.disk).alarm
    return Local(
        number=number,
        end=end,
        names=names,
        roots=tuple(place(symbolic.name_of(root) or 0) for root in end.disk.roots),
        live=_key(end, live.local_index, place) if live is not None else None,
        opens=frozenset((at, exporter) for at, _, exporter in (_key(end, i, place) for i in end.keys)),
        asks=place(attempt.local_index) if attempt is not None else None,
        awaits=place(cast(symbolic.SymbolicServer, pending.handshake)._name) if pending is not None else None,
        took=_took(finished.digest, place) if finished is not None else None,
        is_up=end.is_up,
        is_confirmed=end.disk.confirmed,
        is_alarmed=alarm is not None,
        is_known=alarm is not None and alarm.is_known,
        is_refused=end.is_refused,
        is_waiting=end.is_up and end.is_waiting(),
        is_straggling=bool(end.keying._sessions._straggling),
        met=(alarm.at.remote, alarm.before.remote if alarm.before is not None else "") if alarm is not None else (),
    )


def _key(end: End, index: int, place: Callable[[int], int]) -> tuple[int, int, int]:
    keys = end.keys[index]
    return place(index), place(keys.remote_index), place(symbolic.words(keys.seal_key)[0])


def _took(digest: bytes, place: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(place(word) for word in symbolic.words(symbolic.message_of(digest) or b"")[2:])


def clone(end: End) -> End:
    """Returns an end that is in all the same, and shares nothing that changes."""
    return copy.deepcopy(end, _shared(end))


def _shared(end: End) -> dict[int, Any]:
    around = end.keying._around
    shared = (around.identity, around.settings, around.calendar, end._steps, end._path, end.disk, end.entangled)
    return {id(value): value for value in (*shared, *_certificates())}


def _certificates() -> tuple[Any, ...]:
    return tuple(town.identity(name).certificate for name in (CLIENT, SERVER))
