"""One computing party of veilsum: ``mpc_party.py ENGINE NUMBER FOLDER PORT,PORT,…``.

An operating-system process on mutual TLS, like a node's. It answers orders, one JSON object a line:

| order | answer |
|---|---|
| ``prepare`` (a work), ``sizes`` | ``sent``, ``rounds``, ``steps``, ``digest`` of a first run |
| ``go`` | ``wall`` and ``cpu`` seconds of one more run |
| ``profile`` | prints what took this process its time, to standard error |
| ``truncate`` (elements), ``seed`` | ``wrong`` |
| ``digits`` (a file), ``widths``, ``rate`` | ``right`` |
"""

import asyncio
import cProfile
import datetime as dt
import json
import pstats
import resource
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpc_inputs import digest, inputs
from mpc_work import WORK, Numbers, digits, shared, wrong_truncations
from timing import reply
from veilsum.crypto.randomness import fresh
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.mpc import engines
from veilsum.mpc.fixed import Fixed, reveal
from veilsum.mpc.wire import LaneWire, Traffic
from veilsum.net.lane import Lane
from veilsum.net.session import Session
from veilsum.net.tls import TlsLinks
from veilsum.parties import Federation, Member, PartyId, Role
from veilsum.store.journal import MemoryJournal

CHUNK = 1 << 20  # elements that are truncated at once


def names(count: int) -> list[PartyId]:
    """Return the parties' names, in the order of their numbers."""
    return [PartyId(f"computer-{number}") for number in range(count)]


class Computer:
    """A computing party that is ready; every method is one order.

    Args:
        engine: of the works.
        number: this party's.
        lanes: to the others.
    """

    def __init__(self, engine: str, number: int, lanes: dict[PartyId, Lane]) -> None:
        everyone = names(len(lanes) + 1)
        self.wire = LaneWire(number, [lanes.get(name) for name in everyone])
        self.engine = engines.start(engine, self.wire, fresh)
        self._orders: dict[str, Callable[..., dict[str, Any]]] = {
            "prepare": self.prepare,
            "go": self.go,
            "profile": self.profile,
            "truncate": self.truncate,
            "digits": self.digits,
        }
        self._run: Callable[[], list[Fixed]] = list

    def serve(self) -> None:
        """Answer orders until the input ends."""
        reply({"ready": list(WORK)})
        while line := sys.stdin.readline():
            order = json.loads(line)
            reply(self._orders[order.pop("order")](**order))

    def prepare(self, work: str, sizes: dict[str, int]) -> dict[str, Any]:
        """Share the inputs of a work and run it once; count what it says."""
        arrays = inputs(work, **sizes)
        given: Numbers = shared(self.engine, work, arrays)

        def run() -> list[Fixed]:
            results = WORK[work](self.engine, given)
            if self.engine.malicious:
                self.engine.verify()
            return results

        self._run, before = run, self.wire.total + Traffic()
        self.wire.by_step.clear()
        results = run()
        said = self.wire.total - before
        steps = {name or "(no step)": (t.sent, t.rounds) for name, t in self.wire.by_step.items()}
        sums = digest(arrays, reveal(*results))
        return {"sent": said.sent, "rounds": said.rounds, "steps": steps, "digest": sums}

    def go(self) -> dict[str, Any]:
        """Run the work that was prepared, from when all parties are there."""
        self._meet()
        used, began = _cpu(), time.perf_counter()
        self._run()
        return {"wall": time.perf_counter() - began, "cpu": _cpu() - used}

    def profile(self) -> dict[str, Any]:
        """Run it under Python's profiler; party 0 prints what took longest."""
        with cProfile.Profile() as profiler:
            found = self.go()
        if self.engine.me == 0:
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
        return found

    def truncate(self, count: int, seed: int) -> dict[str, Any]:
        """Count wrong truncations, piece by piece."""
        wrong = 0
        for at in range(0, count, CHUNK):
            wrong += wrong_truncations(self.engine, min(CHUNK, count - at), seed + at)
        return {"wrong": wrong}

    def digits(self, file: str, widths: list[int], rate: float) -> dict[str, Any]:
        """Train on what a file holds; count the right answers, which are no part of the training."""
        with np.load(file) as held:
            arrays = {name: held[name] for name in held.files}
        truth = arrays.pop("truth")
        self._meet()
        began = time.perf_counter()
        (logits,) = reveal(digits(self.engine, widths, arrays, rate))
        seconds = time.perf_counter() - began
        return {"right": int(np.count_nonzero(logits.argmax(1) == truth)), "wall": seconds}

    def _meet(self) -> None:
        word = np.zeros(1, np.uint64)
        others = [number for number in range(self.wire.parties) if number != self.wire.me]
        self.wire.exchange(dict.fromkeys(others, word), {peer: np.empty_like(word) for peer in others})


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def session_of(number: int, folder: Path, ports: list[str]) -> tuple[TlsLinks, Session]:
    """Return a party's session with the others over TLS; ``folder`` holds ``NAME.der`` and ``NAME.pem``."""
    everyone = names(len(ports))
    me = everyone[number]
    members = {
        name: Member((folder / f"{name}.der").read_bytes(), f"127.0.0.1:{port}")
        for name, port in zip(everyone, ports, strict=True)
    }
    federation = Federation("bench", members)
    parties: dict[Role, tuple[PartyId, ...]] = {Role("computer"): tuple(everyone)}
    job = Job(kind="bench", purpose="benchmark", expires=dt.date(2100, 1, 1), parties=parties)

    def load_key(context: ssl.SSLContext) -> None:
        context.load_cert_chain(folder / f"{me}.pem")

    links = TlsLinks(me, federation, load_key)
    session = Session(
        me,
        job,
        job_hash=job_hash(job, federation),
        job_keys=key_digests(job, federation),
        inputs=b"",
        messages=(),
        links=links,
        open_journal=lambda _run: (MemoryJournal(), 1),
    )
    return links, session


async def play(engine: str, number: int, folder: Path, ports: list[str]) -> None:
    """Connect and serve."""
    links, session = session_of(number, folder, ports)
    async with links, session:
        await session.in_lane("bench", lambda lanes: Computer(engine, number, lanes).serve())


def main() -> None:
    """Run one party."""
    engine, number, folder, ports = sys.argv[1:]
    asyncio.run(play(engine, int(number), Path(folder), ports.split(",")))


if __name__ == "__main__":
    main()
