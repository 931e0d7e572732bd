"""Kill each process at each moment of a job, give the same commands again: the right result.

`make test` takes some of the moments, `make slow` all of them.
"""

import asyncio
import json

import pytest

from e2e import hospitals, insurers
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


def check_result(world, ended, mode):
    for name, end in ended.items():
        assert end.code == 0, (name, end.answer, end.errors)
    (artefact,) = {end.answer["artefact"] for end in ended.values()}
    RIGHT[mode](world, artefact)
    for name, home in world.homes.items():
        assert verify_chain(home / "state" / "records"), name


def right_matches(world, artefact):
    for name in world.ids:
        assert insurers.matched(world, name, artefact) == world.common


def right_weights(world, artefact):
    """The client has its matches; at their places the signer has the same customers."""
    assert insurers.matched(world, "insurer-a", artefact) == world.common
    signer = insurers.phones(world, "insurer-b", artefact, "aligned.csv")
    assert sorted(signer) == sorted(world.ids["insurer-b"])
    lines = insurers.lines(world, "insurer-a", artefact)
    assert {signer[line["position"]] for line in lines if line["weight"]} == world.common
    names = [[line["id"] for line in insurers.lines(world, who, artefact)] for who in world.ids]
    assert names[0] == names[1]


def right_union(world, artefact):
    """Both have the same random ids, and own rows with one id stand at one place."""
    places = []
    for name, ids in world.ids.items():
        lines = insurers.lines(world, name, artefact)
        assert len(lines) == len(set().union(*world.ids.values()))
        places.append({ids[line["row"]]: line["id"] for line in lines if line["row"] is not None})
        assert set(places[-1]) == set(ids)
    assert {i for i in places[0] if places[0][i] == places[1].get(i)} == world.common


def right_model(world, artefact):
    """All epochs were trained, and everybody has the same metrics; who gets predictions has all of them."""
    folders = [home / "results" / artefact for home in world.homes.values()]
    measured = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert measured[0] == measured[1] == measured[2]
    assert len(measured[0]["loss"]) == 3
    assert measured[0]["loss"][-1] < 0.69  # of a coin
    results = world.homes["hospital-b"] / "results" / artefact
    assert len(hospitals.table(results / "predictions.parquet")["row"]) == 45


RIGHT = {
    "open": right_matches,
    "hidden_one": right_weights,
    "hidden_union": right_union,
    "learning": right_model,
}


def make(folder, mode):
    return hospitals.make(folder) if mode == "learning" else insurers.make(folder, mode=mode)


async def crash_and_go_on(folder, moment, mode):
    world = make(folder, mode)
    first = await run_parties(world.homes, world.job, at=moment)
    assert first[moment.party].code == -9, (moment, first[moment.party])
    told = first[moment.party].events[-1]
    for name, end in first.items():
        if name != moment.party and end.code != 0:
            # a party that had everything it needed may have ended well before it noticed
            assert end.answer["error"] in QUICK, (moment, name, end.answer)
            assert end.events[-1].at - told.at < 6, (moment, name)
    check_result(world, await run_parties(world.homes, world.job, options=("--wait", "6")), mode)


async def matrix(folder, mode, every):
    clean_world = make(folder / "clean", mode)
    clean = await run_parties(clean_world.homes, clean_world.job)
    check_result(clean_world, clean, mode)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number, moment):
        async with places:
            await crash_and_go_on(folder / str(number), moment, mode)

    whole = list(moments(clean))
    assert len(whole) > 20
    await asyncio.gather(*(one(number, moment) for number, moment in enumerate(whole[::every])))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["hidden_one", "learning"])
def test_some_moments(mode, tmp_path):
    asyncio.run(matrix(tmp_path, mode, every=7))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", RIGHT)
def test_crash_matrix(mode, tmp_path):
    asyncio.run(matrix(tmp_path, mode, every=1))
