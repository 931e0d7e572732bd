"""The folders of several parties on one machine: for the demo, tests and benchmarks."""

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path

from veilsum.node import config, identity
from veilsum.parties import Federation, Member, PartyId

HEAD = """\
name = "{name}"
key = "{name}.key"
federation = "federation.toml"
"""


def make_homes(folder: Path, parties: Mapping[str, str], *, name: str = "federation") -> Federation:
    """Make an identity, ``federation.toml`` and ``party.toml`` for parties that listen on this machine.

    Args:
        folder: each party's home becomes a folder in it.
        parties: name → what follows the names in its ``party.toml`` (data sets, floor, …).
        name: of the federation.
    """
    members = {}
    for party, port in zip(parties, free_ports(len(parties)), strict=True):
        home = folder / party
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        members[PartyId(party)] = Member(identity.new_identity(home, party).certificate, f"127.0.0.1:{port}")
    federation = Federation(name, members)
    for party, rest in parties.items():
        config.save_federation(folder / party / "federation.toml", federation)
        path = folder / party / "party.toml"
        path.touch(mode=0o600)
        path.write_text(HEAD.format(name=party) + rest)
    return federation


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
