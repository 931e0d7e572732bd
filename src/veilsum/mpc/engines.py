"""The engines by name, and how a party gets ready: it agrees with the others on the components' keys."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from veilsum.crypto.prg import KEY_BYTES
from veilsum.mpc.engine import Engine, Link
from veilsum.mpc.rss3 import RSS3
from veilsum.mpc.rss4 import RSS4
from veilsum.mpc.wire import Wire

ENGINES: Mapping[str, type[RSS3] | type[RSS4]] = MappingProxyType({RSS3.name: RSS3, RSS4.name: RSS4})


def start(name: str, wire: Wire, fresh: Callable[[int], bytes], link: Link | None = None) -> Engine:
    """Agree on keys over a wire and return this party's side of an engine.

    Args:
        name: of the engine.
        wire: connects all its parties.
        fresh: gives random bytes that nobody else knows.
        link: what rounds and bytes cost; the same at all parties.
    """
    engine = ENGINES[name]
    held = [component for component in range(engine.parties) if wire.me in engine.holders(component)]
    keys = dict(zip(held, agree(wire, [engine.holders(c) for c in held], fresh), strict=True))
    return engine(wire, [keys[component] for component in engine.held(wire.me)], link)


def agree(wire: Wire, groups: list[tuple[int, ...]], fresh: Callable[[int], bytes]) -> list[bytes]:
    """Return a key for every group that this party is in; the first of a group makes it. One round."""
    keys: list[bytes | None] = [fresh(KEY_BYTES) if group[0] == wire.me else None for group in groups]
    outgoing: dict[int, list[bytes]] = {}
    incoming: dict[int, list[int]] = {}
    for at, (group, key) in enumerate(zip(groups, keys, strict=True)):
        if key is None:
            incoming.setdefault(group[0], []).append(at)
        else:
            for peer in group[1:]:
                outgoing.setdefault(peer, []).append(key)
    received = {peer: np.empty(2 * len(ats), np.uint64) for peer, ats in incoming.items()}
    wire.exchange({peer: np.frombuffer(b"".join(made), "<u8") for peer, made in outgoing.items()}, received)
    for peer, ats in incoming.items():
        for at, pair in zip(ats, received[peer].reshape(-1, 2), strict=True):
            keys[at] = pair.astype("<u8").tobytes()
    return [key for key in keys if key is not None]
