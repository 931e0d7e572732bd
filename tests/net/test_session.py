"""How sessions end: by own errors, by others', by a user, by what nobody foresaw."""

import asyncio
import threading
import time

import numpy as np
import pytest

from veilsum import events
from veilsum.errors import DataError, JobMismatch, PeerAborted, PeerLost, ProtocolError, StepTimeout
from veilsum.net.control import Abort, Payload
from veilsum.net.ports import Links
from veilsum.testing.cluster import Cluster, federation_of
from veilsum.testing.conformance import job_of

ANN, BOB, CLEO = PARTIES = ("ann", "bob", "cleo")


def play(plays, *, step_timeout=5.0, **more):
    cluster = Cluster(job_of(*plays, step_timeout=step_timeout), [Payload], **more)
    return cluster.play(plays)


async def for_ever(session):
    del session
    await asyncio.Event().wait()


async def listen(session):
    await session[ANN].recv(Payload)


async def _both(cluster, *parts):
    results = await asyncio.gather(*parts, return_exceptions=True)
    cluster._hub.close()
    return results


def soon(start):
    async def run():
        began = time.monotonic()
        result = await start()
        assert time.monotonic() - began < 1.0
        return result

    return run


def test_an_own_error_stays_although_the_others_answer(clean):
    async def ann(session):
        await asyncio.sleep(0.01)
        raise DataError("a bad row")

    for _ in range(8):
        results = clean(soon(lambda: play({ANN: ann, BOB: for_ever, CLEO: for_ever})), debug=False)
        assert isinstance(results[ANN], DataError)
        for other in (BOB, CLEO):
            assert isinstance(results[other], PeerAborted)
            assert results[other].cause in {"DataError", "PeerAborted"}
            assert "bad row" not in str(results[other])


def test_an_unforeseen_exception_is_told(clean):
    async def ann(session):
        raise ZeroDivisionError

    results = clean(soon(lambda: play({ANN: ann, BOB: for_ever, CLEO: for_ever})))
    assert isinstance(results[ANN], ZeroDivisionError)
    assert {type(results[other]) for other in (BOB, CLEO)} == {PeerAborted}


def test_a_user_who_stops_is_heard_everywhere(clean):
    async def run():
        cluster = Cluster(job_of(*PARTIES), [Payload])

        async def one(me):
            async with cluster.session(me) as session:
                await for_ever(session)

        tasks = {me: asyncio.create_task(one(me)) for me in PARTIES}
        await asyncio.sleep(0.05)
        tasks[ANN].cancel()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        cluster._hub.close()
        return dict(zip(tasks, results, strict=True))

    results = clean(soon(run))
    assert isinstance(results[ANN], asyncio.CancelledError)
    assert [results[other].cause for other in (BOB, CLEO)] in (
        ["Interrupted", "Interrupted"],
        ["PeerAborted", "Interrupted"],
        ["Interrupted", "PeerAborted"],
    )


def test_a_user_who_stops_while_connecting(clean):
    async def run():
        cluster = Cluster(job_of(ANN, BOB), [Payload])
        task = asyncio.create_task(cluster.session(ANN).__aenter__())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cluster._hub.close()

    clean(soon(run))


def test_a_timeout_around_a_session_is_one(clean):
    async def run():
        async def ann(session):
            await for_ever(session)

        cluster = Cluster(job_of(ANN, BOB), [Payload])

        async def timed():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), cluster.session(ANN) as session:
                    await ann(session)

        async def other():
            async with cluster.session(BOB) as session:
                await for_ever(session)

        return (await _both(cluster, timed(), other()))[1]

    assert isinstance(clean(soon(run)), PeerAborted)


@pytest.mark.parametrize("swallow", [False, True])
def test_a_failed_session_leaves_its_task_uncancelled(clean, swallow):
    """What `fail` cancels it takes back, also where the body turned the cancelling into something else."""

    async def ann(session):
        await asyncio.sleep(0.02)
        raise DataError("stop")

    async def bob(session):
        if not swallow:
            await for_ever(session)
        try:
            await for_ever(session)
        except asyncio.CancelledError:
            raise RuntimeError("something else") from None

    async def run():
        cluster = Cluster(job_of(ANN, BOB), [Payload])

        async def at_ann():
            async with cluster.session(ANN) as session:
                await ann(session)

        async def at_bob():
            with pytest.raises(PeerAborted):
                async with cluster.session(BOB) as session:
                    await bob(session)
            assert asyncio.current_task().cancelling() == 0
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return True

        return (await _both(cluster, at_ann(), at_bob()))[1]

    assert clean(run) is True


def test_an_error_found_in_the_moment_of_failing_is_still_told(clean):
    """The cancelling that `fail` asked for must not hit the telling instead of the body."""

    async def ann(session):
        session.fail(StepTimeout("made up"))
        raise DataError("at the same moment")

    for _ in range(5):
        results = clean(soon(lambda: play({ANN: ann, BOB: for_ever, CLEO: for_ever})), debug=False)
        assert isinstance(results[ANN], StepTimeout | DataError)
        assert {type(results[other]) for other in (BOB, CLEO)} == {PeerAborted}, results


def test_two_parties_fail_at_once(clean):
    async def part(session):
        raise DataError(f"at {session.me}")

    results = clean(soon(lambda: play({ANN: part, BOB: part, CLEO: for_ever})))
    assert isinstance(results[ANN], DataError | PeerAborted)
    assert isinstance(results[BOB], DataError | PeerAborted)
    assert DataError in {type(results[ANN]), type(results[BOB])}
    assert isinstance(results[CLEO], PeerAborted)


def test_a_second_interrupt_leaves_nothing_behind(clean):
    async def run():
        cluster = Cluster(job_of(ANN, BOB), [Payload])

        async def one(me):
            async with cluster.session(me) as session:
                await for_ever(session)

        tasks = [asyncio.create_task(one(me)) for me in (ANN, BOB)]
        await asyncio.sleep(0.05)
        for _ in range(5):
            tasks[0].cancel()
            await asyncio.sleep(0)
        return await _both(cluster, *tasks)

    results = clean(soon(run))
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], PeerAborted)


def test_another_job(clean):
    async def run():
        cluster = Cluster(job_of(ANN, BOB), [Payload])
        other = job_of(ANN, BOB, step_timeout=77.0)

        async def one(me, job):
            async with cluster.session(me, job):
                pass

        return await _both(cluster, one(ANN, None), one(BOB, other))

    results = clean(soon(run))
    assert JobMismatch in {type(result) for result in results}
    for result in results:
        assert isinstance(result, JobMismatch | PeerAborted)
        if isinstance(result, JobMismatch):
            assert "step_timeout" in result.message


def test_a_countersignature_over_other_bytes(clean):
    async def honest(session):
        await session.broadcast(Payload(np.ones(5, np.uint8)))
        await session.gather(Payload)
        await session.countersign(lambda words: words[:32], lambda *_: None)

    async def lying(session):
        await session.broadcast(Payload(np.ones(5, np.uint8)))
        await session.gather(Payload)
        session[ANN].sent._hash.update(b"and more")
        await session.countersign(lambda words: words[:32], lambda *_: None)

    results = clean(soon(lambda: play({ANN: honest, BOB: lying})))
    assert isinstance(results[ANN], ProtocolError)
    assert "another transcript" in results[ANN].message


# -- lanes


def waits(lanes):
    for lane in lanes.values():
        lane.exchange(b"abc", bytearray(3))


def test_an_abort_ends_a_lane(clean):
    async def ann(session):
        await asyncio.sleep(0.1)
        raise DataError("stop")

    async def bob(session):
        await session.in_lane("x", waits)

    results = clean(soon(lambda: play({ANN: ann, BOB: bob})))
    assert isinstance(results[BOB], PeerAborted)


def test_a_user_ends_a_lane(clean):
    async def run():
        cluster = Cluster(job_of(ANN, BOB), [Payload])

        async def one(me):
            async with cluster.session(me) as session:
                await session.in_lane("x", waits if me == ANN else lambda lanes: time.sleep(0.3))

        tasks = [asyncio.create_task(one(me)) for me in (ANN, BOB)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        return await _both(cluster, *tasks)

    results = clean(soon(run))
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], PeerAborted)


def test_a_live_peer_that_keeps_a_round_waiting(clean):
    async def ann(session):
        await session.in_lane("x", waits)

    async def bob(session):
        await session.in_lane("x", lambda lanes: time.sleep(0.8))
        await for_ever(session)

    results = clean(lambda: play({ANN: ann, BOB: bob}, step_timeout=0.4))
    assert isinstance(results[ANN], StepTimeout)
    assert "kept a round waiting" in results[ANN].message
    assert isinstance(results[BOB], PeerAborted)


def test_a_lane_that_cannot_be_opened(clean):
    class NoLanes(Links):
        def __init__(self, inner):
            self._inner = inner

        async def link(self, peer, purpose):
            return await self._inner.link(peer, purpose)

        async def sockets(self, peer, label):
            if peer == CLEO:
                raise ConnectionRefusedError
            return await self._inner.sockets(peer, label)

    def wrap(me, links):
        return NoLanes(links) if me == ANN else links

    async def part(session):
        await session.in_lane("x", waits)

    results = clean(lambda: play(dict.fromkeys(PARTIES, part), wrap=wrap))
    assert isinstance(results[ANN], PeerLost)
    assert {type(results[other]) for other in (BOB, CLEO)} == {PeerAborted}


def test_more_lanes_in_one_process_than_a_pool_has_threads(clean):
    names = [f"p{n}" for n in range(9)]

    async def part(session):
        await session.in_lane("x", waits)
        return True

    before = threading.active_count()
    results = clean(lambda: play(dict.fromkeys(names, part)))
    assert all(result is True for result in results.values()), results
    assert threading.active_count() <= before + 1


def test_a_step_counts_what_its_lanes_carry(clean):
    told = []

    async def part(session):
        for number, times in ((1, 2), (2, 0), (3, 1)):
            async with session.step(number, "s"):
                for _ in range(times):
                    await session.in_lane("x", waits)
        return True

    results = clean(lambda: play({ANN: part, BOB: part}, sink=told.append))
    assert all(result is True for result in results.values()), results
    for name in (ANN, BOB):
        done = [event for event in told if isinstance(event, events.StepDone) and event.party == name]
        assert [(event.sent, event.received) for event in done] == [(6, 6), (0, 0), (3, 3)]


def test_an_error_of_a_lanes_program(clean):
    async def ann(session):
        def program(lanes):
            raise DataError("in a thread")

        await session.in_lane("x", program)

    async def bob(session):
        await session.in_lane("x", waits)

    results = clean(lambda: play({ANN: ann, BOB: bob}))
    assert isinstance(results[ANN], DataError)
    assert isinstance(results[BOB], PeerAborted | PeerLost)


def test_gather_with_a_quorum(clean):
    async def ann(session):
        got = await session.gather(Payload, quorum=1, within=0.2)
        with pytest.raises(StepTimeout, match="no Payload from cleo"):
            await session.gather(Payload, of=[CLEO], within=0.1)
        await session[CLEO].send(Payload(np.zeros(1, np.uint8)))
        late = await session[CLEO].recv(Payload)
        return list(got), int(late.data[0])

    async def bob(session):
        await session[ANN].send(Payload(np.zeros(1, np.uint8)))

    async def cleo(session):
        await session[ANN].recv(Payload)
        await session[ANN].send(Payload(np.full(1, 7, np.uint8)))

    results = clean(lambda: play({ANN: ann, BOB: bob, CLEO: cleo}))
    assert results == {ANN: ([BOB], 7), BOB: None, CLEO: None}


def test_the_federation_of_tests():
    assert federation_of([ANN]).members[ANN].certificate == b"certificate of ann"
    assert Abort.wire.limit == 4096
