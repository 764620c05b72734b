"""Run by `test_lab.py` under `unshare -Urnm`: builds a laboratory where nobody is really root."""

from fabric.lab import Lab, Nat

with Lab() as lab:
    alice = lab.site("home", Nat.PORT_RESTRICTED).host("alice")
    bob = lab.site("work", Nat.FULL_CONE)
    bob.shorten_mappings(30)
    server = lab.site("server", Nat.PUBLIC).host("bob")
    alice.run("ping", "-n", "-c1", "-W2", server.ip).must()
print("alice reached bob")
