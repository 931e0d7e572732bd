"""Sharing from outside: an owner makes the components of its numbers, each computing party gets its own.

All components but the last come from keys that only their holders get; the last travels. Whoever receives a
value from the computing parties puts it together again, and compares what several of them hold.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from veilsum.crypto.prg import Prg
from veilsum.errors import CheatingDetected
from veilsum.mpc.engine import Engine
from veilsum.mpc.shares import Arith, Words

Engines = type[Engine]


def components(engine: Engines, values: Words, keys: Sequence[bytes]) -> list[Words]:
    """Return all components of a sharing of ring elements; ``keys`` are those of all but the last."""
    made = [Prg(key).words(*values.shape) for key in keys]
    last = values.copy()
    for one in made:
        last -= one
    assert len(made) + 1 == engine.components
    return [*made, last]


def held(
    engine: Engines, party: int, shape: tuple[int, ...], keys: Mapping[int, bytes], last: Words | None
) -> Arith:
    """Return a computing party's share of an owner's numbers.

    Args:
        engine: the class of the engine.
        party: its number.
        shape: of the numbers.
        keys: by component, those that it holds.
        last: the last component, at its holders.
    """
    parts = np.empty((len(engine.held(party)), *shape), np.uint64)
    for at, component in enumerate(engine.held(party)):
        if component in keys:
            Prg(keys[component]).fill(parts[at, ...])
        else:
            assert last is not None
            parts[at] = last.reshape(shape)
    return Arith(parts)


def digests(engine: Engines, party: int, shares: Sequence[Arith]) -> dict[int, bytes]:
    """Return the hash of every component that a party holds, over several shares."""
    states = {component: hashlib.sha256() for component in engine.held(party)}
    for share in shares:
        for at, component in enumerate(engine.held(party)):
            states[component].update(np.ascontiguousarray(share.parts[at]).data)
    return {component: state.digest() for component, state in states.items()}


def compare(
    engine: Engines, me: int, mine: Mapping[int, bytes], theirs: Mapping[int, Mapping[int, bytes]]
) -> None:
    """Compare the components that several computing parties hold.

    Raises:
        CheatingDetected: an owner gave them different ones, or one of them says something else.
    """
    for peer, said in theirs.items():
        for component in set(engine.held(me)) & set(engine.held(peer)):
            if said.get(component) != mine[component]:
                raise CheatingDetected(
                    f"computing party {peer} was given another component of an input than this one",
                    remedy="an owner or that party deviates: settle it before the job is run again",
                )


def together(engine: Engines, parts: Mapping[int, Words]) -> Words:
    """Return the value whose components the computing parties sent, each those that it holds.

    Raises:
        CheatingDetected: two that hold the same component sent different ones.
    """
    known: dict[int, tuple[int, Words]] = {}
    for party, arrays in parts.items():
        for component, array in zip(engine.held(party), arrays, strict=True):
            if component not in known:
                known[component] = (party, array)
            elif not np.array_equal(known[component][1], array):
                raise CheatingDetected(
                    f"computing parties {known[component][0]} and {party} gave different parts of a result"
                )
    whole: Words = np.sum([array for _, array in known.values()], axis=0, dtype=np.uint64)
    return whole
