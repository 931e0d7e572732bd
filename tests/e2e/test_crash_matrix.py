"""Kill each process at each moment of the alignment, give the same commands again: the right result."""

import asyncio

import pytest

from e2e import insurers
from veilsum import events
from veilsum.node.verification import verify_chain
from veilsum.testing.processes import Moment, run_parties

AT_ONCE = 4
QUICK = {"PeerLost", "PeerAborted"}


def moments(clean):
    """Every numbered step's beginning and end, every durable batch, and the very end, at every party."""
    for name, ended in clean.items():
        for index, event in enumerate(ended.events):
            if isinstance(event, events.StepStarted | events.StepDone | events.Progress | events.RunDone):
                yield Moment(name, index)


def check_result(world, ended):
    artefacts = set()
    for name, end in ended.items():
        assert end.code == 0, (name, end.answer, end.errors)
        artefacts.add(end.answer["artefact"])
        if name in world.ids:
            assert insurers.matched(world, name, end.answer["artefact"]) == world.common
    assert len(artefacts) == 1
    for name, home in world.homes.items():
        assert verify_chain(home / "state" / "records"), name


async def crash_and_go_on(folder, moment):
    world = insurers.make(folder)
    first = await run_parties(world.homes, world.job, at=moment)
    assert first[moment.party].code == -9, (moment, first[moment.party])
    told = first[moment.party].events[-1]
    for name, end in first.items():
        if name != moment.party and end.code != 0:
            # a party that had everything it needed may have ended well before it noticed
            assert end.answer["error"] in QUICK, (moment, name, end.answer)
            assert end.events[-1].at - told.at < 6, (moment, name)
    check_result(world, await run_parties(world.homes, world.job, options=("--wait", "6")))


async def matrix(folder):
    clean_world = insurers.make(folder / "clean")
    clean = await run_parties(clean_world.homes, clean_world.job)
    check_result(clean_world, clean)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number, moment):
        async with places:
            await crash_and_go_on(folder / str(number), moment)

    tasks = [one(number, moment) for number, moment in enumerate(moments(clean))]
    assert len(tasks) > 20
    await asyncio.gather(*tasks)


@pytest.mark.timeout(400)
def test_crash_matrix(tmp_path):
    asyncio.run(matrix(tmp_path))
