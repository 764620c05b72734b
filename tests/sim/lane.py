"""The product's reference lane with a witness beside it: it sees which keys are steered in, and changes nothing."""

from __future__ import annotations

from fabric.dataplane.contract import SessionKeys
from fabric.dataplane.reference import ReferenceLane
from fabric.identity.certificate import Certificate
from tests.sim.witness import Witness


class WitnessedLane(ReferenceLane):
    """`name` is the endpoint's."""

    def __init__(self, certificate: Certificate, witness: Witness) -> None:
        super().__init__(certificate.mac, certificate.addresses)
        self._sim_name = certificate.name
        self._sim_witness = witness

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        super().install(keys, awaiting=awaiting)
        self._sim_witness.see_install(self._sim_name, keys)

    def retire(self, local_index: int) -> None:
        self._sim_witness.see_retire(self._sim_name, local_index)
        super().retire(local_index)

    def dismiss(self, peer: str) -> None:
        self._sim_witness.see_dismiss(self._sim_name, peer)
        super().dismiss(peer)
