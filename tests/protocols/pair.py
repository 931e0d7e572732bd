"""A signer and a client with lists in memory, on small test keys, for playing blind RSA without files."""

import datetime as dt
import tempfile
from pathlib import Path

from veilsum.data.alignment import NO_ROW
from veilsum.jobs import Job
from veilsum.protocols import hidden_psi
from veilsum.protocols.hidden_psi import Params
from veilsum.store.files import Scratch
from veilsum.testing.cluster import Cluster

SMALL = 512
"""Bits of a test key: no user can ask for it, and it signs thousands of ids a second on any machine."""


def job(**params):
    return Job(
        kind="hidden_psi",
        purpose="test",
        expires=dt.date(2100, 1, 1),
        parties={"signer": ("s",), "client": ("c",)},
        data={"s": "rows", "c": "rows"},
        params={"mode": "hidden_one", "key_bits": SMALL} | params,
        step_timeout=5.0,
    )


def params_of(agreed):
    """Return the parameters without the check of the key's size that users' jobs go through."""
    return Params(**agreed.params)


def plays(agreed, lists, folder, *, budget=64 << 20, keys=None):
    """Return both parts; what each returns is (alignment, its lines)."""
    params = params_of(agreed)

    def play(name):
        async def part(s):
            scratch = Scratch(Path(tempfile.mkdtemp(dir=folder)), budget)
            got = await hidden_psi.align(s, params, lists[name], scratch, keys if name == "s" else None)
            lines = None
            if got.rows is not None:
                lines = list(hidden_psi.places(s.journal, params, got, client=name == "c"))
            return got, lines

        return part

    return {name: play(name) for name in agreed.members}


def placed(lines):
    """Return own row → place."""
    found = {}
    for batch in lines:
        pairs = zip(batch.rows.tolist(), batch.positions.tolist(), strict=True)
        found |= {row: place for row, place in pairs if row != NO_ROW}
    return found


def names(lines):
    """Return the random ids in the common order."""
    return [bytes(name) for batch in lines for name in batch.ids]


async def run(agreed, lists, folder, *, keys=None, **options):
    cluster = Cluster(agreed, hidden_psi.MESSAGES, **options)
    return cluster, await cluster.play(plays(agreed, lists, folder, keys=keys))
