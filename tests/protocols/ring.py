"""Members with lists in memory, for playing the alignment without files."""

import datetime as dt
import tempfile
from pathlib import Path

import numpy as np

from veilsum.data.ids import IdBatch
from veilsum.jobs import Job
from veilsum.net.messages import Message
from veilsum.protocols import dh_ring
from veilsum.protocols.dh_ring import Params
from veilsum.store.files import Scratch
from veilsum.testing.cluster import Cluster


class Listed:
    """Ids given as a list; row i is the i-th."""

    form = "text"

    def __init__(self, ids):
        self._ids = [i.encode() if isinstance(i, str) else i for i in ids]

    @property
    def count(self):
        return len(self._ids)

    def batches(self, size):
        for start in range(0, len(self._ids), size):
            part = self._ids[start : start + size]
            offsets = np.cumsum([0, *map(len, part)]).astype(np.int64)
            rows = np.arange(start, start + len(part), dtype=np.int64)
            yield IdBatch(rows, b"".join(part), offsets)


def job(members, collector, **params):
    return Job(
        kind="hidden_psi",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"member": tuple(members), "collector": (collector,)},
        data=dict.fromkeys(members, "rows"),
        params=params,
        step_timeout=3.0,
    )


def plays(agreed, lists, folder, *, budget=64 << 20):
    """Return every party's part; what it returns is (alignment, {own row: place} or None)."""
    import msgspec

    params = msgspec.convert(agreed.params, Params)

    def play(name):
        async def part(s):
            scratch = Scratch(Path(tempfile.mkdtemp(dir=folder)), budget)
            got = await dh_ring.align(s, params, lists.get(name), scratch)
            if got.matches is None:
                return got, None
            found = {}
            for batch in dh_ring.places(s.journal, got):
                found |= dict(zip(batch.rows.tolist(), batch.positions.tolist(), strict=True))
            return got, found

        return part

    return {name: play(name) for name in agreed.members}


def messages() -> tuple[type[Message], ...]:
    return dh_ring.MESSAGES


async def run(agreed, lists, folder, **options):
    cluster = Cluster(agreed, dh_ring.MESSAGES, **options)
    return cluster, await cluster.play(plays(agreed, lists, folder))
