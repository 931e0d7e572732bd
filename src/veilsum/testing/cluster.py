"""Several parties of one job in one process, on memory or TLS links, with the real session objects."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from veilsum import events
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.net.config import NetConfig
from veilsum.net.memory import MemoryHub
from veilsum.net.messages import Message
from veilsum.net.ports import Journal, Links
from veilsum.net.session import Session
from veilsum.parties import Federation, Member, PartyId, RunId
from veilsum.store.journal import MemoryJournal

Play = Callable[[Session], Awaitable[Any]]
FAST = NetConfig(heartbeat=0.1, silence=0.6, connect_timeout=3.0, waiting_after=0.5)
"""Times for tests in one process: a lost peer is noticed in well under a second."""


def federation_of(parties: Sequence[str]) -> Federation:
    """Return a federation without certificates, for memory links."""
    return Federation("test", {PartyId(p): Member(b"certificate of " + p.encode()) for p in parties})


class Cluster:
    """Plays one job at all its parties.

    Args:
        job: names the parties.
        messages: the protocol's message types.
        wrap: puts something around a party's links (faults, recorders).
        journals: party → its journal, kept from an earlier attempt; a fresh one by default.
    """

    def __init__(
        self,
        job: Job,
        messages: Sequence[type[Message]],
        *,
        wrap: Callable[[PartyId, Links], Links] | None = None,
        links: Mapping[PartyId, Links] | None = None,
        journals: Mapping[PartyId, Journal] | None = None,
        config: NetConfig = FAST,
        sink: events.Sink = events.ignore,
    ) -> None:
        self.job, self.messages, self.config, self._sink = job, messages, config, sink
        self._hub = MemoryHub(config)
        self._links = {p: (links[p] if links else self._hub.links(p)) for p in job.members}
        if wrap is not None:
            self._links = {p: wrap(p, links_) for p, links_ in self._links.items()}
        self.journals: dict[PartyId, Journal] = {
            p: (journals or {}).get(p) or MemoryJournal() for p in job.members
        }
        self.sessions: dict[PartyId, Session] = {}

    def session(
        self, me: PartyId, job: Job | None = None, *, inputs: bytes = b"", attempt: int = 1
    ) -> Session:
        """Return a party's session, not yet entered."""
        job = job or self.job
        federation = federation_of(self.job.members)

        def open_journal(run: RunId) -> tuple[Journal, int]:
            del run
            return self.journals[me], attempt

        return Session(
            me,
            job,
            job_hash=job_hash(job, federation),
            job_keys=key_digests(job, federation),
            inputs=inputs,
            messages=self.messages,
            links=self._links[me],
            open_journal=open_journal,
            config=self.config,
            sink=self._sink,
        )

    async def play(self, plays: Mapping[PartyId, Play]) -> dict[PartyId, Any]:
        """Run every party's part; return each one's result, or the error that it ended with."""

        async def one(me: PartyId) -> Any:
            async with self.session(me) as session:
                self.sessions[me] = session
                return await plays[me](session)

        results = await asyncio.gather(*(one(me) for me in plays), return_exceptions=True)
        self._hub.close()
        return dict(zip(plays, results, strict=True))
