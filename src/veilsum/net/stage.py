"""A durable sequence of outputs: one task commits them, others follow, a later attempt goes on behind it."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from veilsum.errors import VeilsumError

if TYPE_CHECKING:
    from veilsum.net.session import Session


class Stage:
    """A named stage of a run with a public count of indices (buckets, rounds, epochs, chunks).

    What is committed is what gets sent: a sender follows the stage, so that a resend is byte-identical.
    """

    def __init__(self, session: "Session", name: str, count: int) -> None:
        self._session, self.name, self.count = session, name, count
        self._grown = asyncio.Condition()
        self.done = session.journal.done(name)
        if self.done > count:
            raise VeilsumError(f"stage {name} holds {self.done} outputs where {count} are declared")

    @property
    def complete(self) -> bool:
        """Whether every index is committed."""
        return self.done == self.count

    def left(self) -> range:
        """Return the indices that are still to be made."""
        return range(self.done, self.count)

    async def commit(self, index: int, output: bytes) -> None:
        """Make the next index durable and let the followers have it."""
        await self._session.commit(self.name, index, output)
        async with self._grown:
            self.done = index + 1
            self._grown.notify_all()
        self._session.progress(self.name, self.done, self.count, "batches")

    async def read(self, index: int) -> bytes:
        """Return one committed output."""
        return await self._session.compute(self._session.journal.read, self.name, index)

    async def follow(self, start: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yield every index from ``start`` on with its output, waiting for those not made yet."""
        for index in range(start, self.count):
            if index >= self.done:
                async with self._grown:
                    await self._grown.wait_for(lambda i=index: i < self.done)  # type: ignore[misc]
            yield index, await self.read(index)
