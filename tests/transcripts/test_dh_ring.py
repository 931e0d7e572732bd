"""What the parties say is what the docstring's table says, for every shape of the ring."""

import asyncio

import pytest

from protocols.ring import Listed, job, run
from veilsum.protocols import dh_ring
from veilsum.testing.transcripts import compare, table


@pytest.mark.parametrize("members", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
@pytest.mark.parametrize(("collector", "share"), [("a", True), ("a", False), ("referee", True)])
def test_table(members, collector, share, tmp_path):
    agreed = job(members, collector, share_matches=share, batch=4)
    lists = {name: Listed([f"{i}" for i in range(10)]) for name in members}
    cluster, _ = asyncio.run(run(agreed, lists, tmp_path))
    roles = {name: agreed.roles(name) for name in agreed.members}
    entries = [
        entry
        for name, session in cluster.sessions.items()
        for entry in session.transcript()
        if entry.sender == name
    ]
    # steps 2 and 3 go on side by side, as the docstring says
    rows = [row._replace(step=2) if row.step == 3 else row for row in table(dh_ring)]
    compare(entries, roles, rows, optional=() if share else ("Places",))
