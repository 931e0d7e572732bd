"""Two members with lists in memory, for playing the hidden union without files."""

import datetime as dt
import tempfile
from pathlib import Path

import msgspec

from veilsum.data.alignment import NO_ROW
from veilsum.jobs import Job
from veilsum.protocols import hidden_union
from veilsum.store.files import Scratch
from veilsum.testing.cluster import Cluster


def job(**params):
    return Job(
        kind="hidden_psi",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"member": ("a", "b")},
        data={"a": "rows", "b": "rows"},
        params={"mode": "hidden_union"} | params,
        step_timeout=3.0,
    )


def plays(agreed, lists, folder, *, budget=64 << 20):
    """Return every member's part; what it returns is (alignment, {own row: place}, [random ids])."""
    params = msgspec.convert(agreed.params, hidden_union.Params)

    def play(name):
        async def part(s):
            scratch = Scratch(Path(tempfile.mkdtemp(dir=folder)), budget)
            got = await hidden_union.align(s, params, lists[name], scratch)
            found, names = {}, []
            for batch in hidden_union.places(s.journal, got):
                pairs = zip(batch.rows.tolist(), batch.positions.tolist(), strict=True)
                found |= {row: place for row, place in pairs if row != NO_ROW}
                names += [bytes(name) for name in batch.ids]
            return got, found, names

        return part

    return {name: play(name) for name in agreed.members}


async def run(agreed, lists, folder, **options):
    cluster = Cluster(agreed, hidden_union.MESSAGES, **options)
    return cluster, await cluster.play(plays(agreed, lists, folder))
