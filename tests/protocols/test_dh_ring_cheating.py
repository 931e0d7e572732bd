"""One party sends what an honest one would not: a named error at every party, never a wrong result."""

import asyncio

import msgspec
import numpy as np
import pytest

from protocols.ring import Listed, job, plays
from veilsum.errors import CheatingDetected, PeerAborted, ProtocolError, VeilsumError
from veilsum.protocols import dh_ring
from veilsum.protocols.dh_ring import NOWHERE, MaskedPoints, Places, Size, Tags
from veilsum.testing.cluster import Cluster

replace = msgspec.structs.replace


def with_points(message, change):
    points = message.points.copy()
    change(points)
    return [replace(message, points=points)]


def with_places(message, change):
    places = message.places.copy()
    change(places)
    return [replace(message, places=places)]


def zero(points):
    points[3] = 0


def repeat_place(places):
    held = np.flatnonzero(places != NOWHERE)
    places[held[0]] = places[held[1]]


def move_place(places):
    places[np.flatnonzero(places != NOWHERE)[0]] = 39


def beyond(places):
    places[0] = 5000


CHEATS = {
    "a point of small order": ("a", MaskedPoints, lambda m: with_points(m, zero), CheatingDetected),
    "a batch twice": ("a", MaskedPoints, lambda m: [m, m], ProtocolError),
    "a batch left out": ("a", MaskedPoints, lambda m: [] if m.index == 1 else [m], ProtocolError),
    "the last batch left out": ("b", MaskedPoints, lambda m: [] if m.index == 3 else [m], ProtocolError),
    "another round": ("a", MaskedPoints, lambda m: [replace(m, round=m.round + 1)], ProtocolError),
    "a short batch": ("b", MaskedPoints, lambda m: [replace(m, points=m.points[:-1])], ProtocolError),
    "a giant size": ("a", Size, lambda m: [replace(m, ids=1 << 60)], ProtocolError),
    "a negative size": ("a", Size, lambda m: [replace(m, ids=-1)], ProtocolError),
    "one's own points again": ("b", Tags, lambda m: [replace(m, tags=m.tags[::-1] * 0)], ProtocolError),
    "tags of another width": ("b", Tags, lambda m: [replace(m, tags=m.tags[:, :-1])], ProtocolError),
    "a place twice": ("c", Places, lambda m: with_places(m, repeat_place), ProtocolError),
    "a place too far": ("c", Places, lambda m: with_places(m, move_place), ProtocolError),
    "an impossible place": ("c", Places, lambda m: with_places(m, beyond), ProtocolError),
    "too few places": ("c", Places, lambda m: [replace(m, places=m.places[:-1])], ProtocolError),
}


def tampering(part, cls, change):
    """Play a part honestly, but for what becomes of one type of message on its way out."""

    async def play(s):
        for peer in s.peers.values():
            peer.send = lambda message, send=peer.send: tampered(message, send)
        return await part(s)

    async def tampered(message, send):
        for out in change(message) if isinstance(message, cls) else [message]:
            await send(out)

    return play


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_noticed(cheat, tmp_path):
    who, cls, change, expected = CHEATS[cheat]
    agreed = job(("a", "b"), "c", share_matches=True, batch=10)
    lists = {n: Listed([f"{i + start}" for i in range(40)]) for n, start in (("a", 0), ("b", 20))}
    parts = plays(agreed, lists, tmp_path)
    parts[who] = tampering(parts[who], cls, change)
    cluster = Cluster(agreed, dh_ring.MESSAGES)
    results = asyncio.run(cluster.play(parts))
    errors = {name: result for name, result in results.items() if isinstance(result, VeilsumError)}
    honest = {name: error for name, error in errors.items() if name != who}
    assert any(type(error) is expected for error in honest.values()), results
    for name, result in results.items():
        if name == who:
            continue
        if name not in errors:
            # a member whose own places were right has finished before the other one complained
            assert cls is Places
            continue
        assert isinstance(result, expected | PeerAborted), (name, result)


def test_a_size_that_changes_between_attempts(tmp_path):
    agreed = job(("a", "b"), "b", batch=10)
    first = {"a": Listed(["x", "y"]), "b": Listed(["y"])}
    cluster = Cluster(agreed, dh_ring.MESSAGES)
    asyncio.run(cluster.play(plays(agreed, first, tmp_path)))
    second = first | {"a": Listed(["x", "y", "z"])}
    again = Cluster(agreed, dh_ring.MESSAGES, journals=cluster.journals)
    results = asyncio.run(again.play(plays(agreed, second, tmp_path)))
    assert all(isinstance(result, ProtocolError | PeerAborted) for result in results.values())
    assert "another size" in str(results["b"])
