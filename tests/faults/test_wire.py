"""Every fault of the wire at every frame of a small protocol: healed, or the named error everywhere, soon."""

from contextlib import AsyncExitStack
from functools import partial

import pytest

from faults.relay_race import PARTIES, TOTAL, cluster, in_batches
from veilsum.node.identity import generate
from veilsum.testing.conformance import tls_federation, tls_parties
from veilsum.testing.faults import FAULTS, FORGE, check, count_frames, play_with_fault

FRAMES = {"ann": 6, "bob": 1, "cleo": 2}
EVERY = [(party, nth) for party in PARTIES for nth in range(1, FRAMES[party] + 1)]


def test_without_faults(clean):
    async def play():
        return {party: await count_frames(cluster, party) for party in PARTIES}

    assert clean(play) == FRAMES


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_every_frame(fault, clean):
    async def play():
        runs = [partial(play_with_fault, cluster, fault, party, nth) for party, nth in EVERY]
        return await in_batches(runs, 9 if fault.timed else 3)

    for outcome in clean(play):
        assert outcome.victim is not None
        check(outcome, TOTAL, within=2.0)


@pytest.mark.parametrize(
    "fault", [FORGE, *(f for f in FAULTS if f.heals or f.name in {"stall", "oversize", "flood"})], ids=repr
)
def test_over_tls(fault, clean):
    identities = {party: generate(party) for party in PARTIES}

    async def play():
        async def run(party, nth):
            async with AsyncExitStack() as stack:
                links = await tls_parties(stack, tls_federation(identities), identities)
                return await play_with_fault(partial(cluster, links=links), fault, party, nth)

        return await in_batches([partial(run, *frame) for frame in EVERY[1::3]], 5)

    for outcome in clean(play):
        assert outcome.victim is not None
        check(outcome, TOTAL, within=3.0)
