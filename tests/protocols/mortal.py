"""A journal whose process dies after so many durable writes, and what it leaves."""

from veilsum.errors import StoreError


class Mortal:
    """A journal that has room for so many writes."""

    def __init__(self, inner, room):
        self._inner, self._room, self.writes = inner, room, 0

    def _write(self):
        self.writes += 1
        if self.writes > self._room:
            raise StoreError("the disk is full", remedy="make room")

    def once(self, key, make):
        return self._inner.once(key, lambda: (self._write(), make())[1])

    def commit(self, stage, index, output):
        self._write()
        self._inner.commit(stage, index, output)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def committed(journal):
    """Return stage → its committed outputs."""
    return {
        stage: [journal.read(stage, index) for index in range(count)]
        for stage, count in journal.stages().items()
    }
