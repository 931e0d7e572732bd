"""The laws of a journal, alike for memory and files; and what a disk does to the latter."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from veilsum.errors import DataError, StoreError
from veilsum.store import files
from veilsum.store.files import write_whole
from veilsum.store.journal import FileJournal, MemoryJournal

LARGE = 16 * 1024 + 1  # goes to a file of its stage
STAGES = ["sign", "a/b", "a_b", "a%2Fb", "round 1/of", "round-1_of", "é", ".", "..", "x" * 300]
outputs = st.one_of(st.binary(max_size=20), st.builds(lambda b: b * LARGE, st.binary(min_size=1, max_size=2)))


class Twins(RuleBasedStateMachine):
    """Memory and file journals answer alike, and the file journal also after any reopening."""

    def __init__(self):
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.folder = Path(self._home.name) / "run"
        self.memory, self.file = MemoryJournal(), FileJournal(self.folder)
        self.keys, self.forgotten = {}, False

    def teardown(self):
        self.file.close()
        self._home.cleanup()

    @rule(key=st.sampled_from(["secret", "a", "b"]), value=outputs)
    def once(self, key, value):
        made = []

        def make():
            made.append(key)
            return bytearray(value)

        got = self.memory.once(key, make), self.file.once(key, make)
        assert got[0] == got[1] == self.keys.setdefault(key, value)
        assert type(got[1]) is bytes
        assert len(made) in {0, 2}

    @rule(key=st.sampled_from(["c", "d"]))
    def once_fails(self, key):
        def fail():
            raise DataError("not made")

        for journal in (self.memory, self.file):
            if key not in self.keys:
                with pytest.raises(DataError):
                    journal.once(key, fail)

    @rule(stage=st.sampled_from(STAGES), output=outputs)
    def commit(self, stage, output):
        index = self.memory.done(stage)
        self.memory.commit(stage, index, output)
        self.file.commit(stage, index, output)

    @rule(stage=st.sampled_from(STAGES), off=st.sampled_from([-2, -1, 1, 5]))
    def commit_out_of_turn(self, stage, off):
        for journal in (self.memory, self.file):
            with pytest.raises(StoreError, match="is next"):
                journal.commit(stage, journal.done(stage) + off, b"x" * LARGE)

    @rule(stage=st.sampled_from(STAGES))
    def read_all(self, stage):
        for index in range(self.memory.done(stage)):
            assert self.memory.read(stage, index) == self.file.read(stage, index)

    @rule(stage=st.sampled_from(STAGES), off=st.sampled_from([-1000, 0, 1]))
    def read_what_is_not_there(self, stage, off):
        for journal in (self.memory, self.file):
            with pytest.raises(StoreError, match="holds no output"):
                journal.read(stage, -1 if off < 0 else journal.done(stage) + off)

    @rule()
    def reopen(self):
        self.file.close()
        self.file = FileJournal(self.folder)

    @rule(stage=st.sampled_from(STAGES), tail=st.binary(max_size=100))
    def crash_while_appending(self, stage, tail):
        """What was written and not yet entered is nobody's, and the next output goes over it."""
        self.file._file(stage)
        path = Path(f"/proc/self/fd/{self.file._files[stage].fileno()}").readlink()
        self.file.close()
        with path.open("ab") as file:
            file.write(tail)
        self.file = FileJournal(self.folder)

    @rule()
    @precondition(lambda self: len(self.keys) + sum(self.memory.stages().values()) > 3)
    def forget(self):
        self.memory.forget()
        self.file.forget()
        self.keys.clear()

    @invariant()
    def same_progress(self):
        assert self.memory.stages() == self.file.stages()
        assert {stage: self.file.done(stage) for stage in self.file.stages()} == self.file.stages()


TestTwins = Twins.TestCase
TestTwins.settings = settings(
    max_examples=min(settings().max_examples, 1000) // 2 + 1,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_folder_is_private(tmp_path):
    folder = tmp_path / "runs" / "1"
    with FileJournal(folder) as journal:
        journal.commit("s", 0, bytes(LARGE))
        journal.once("k", lambda: b"v")
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_secret_is_left_after_forgetting(tmp_path):
    secrets = [bytes([65 + n]) * 8 + os.urandom(8).hex().encode() for n in range(6)]
    journal = FileJournal(tmp_path / "run")
    journal.once("key", lambda: secrets[0])
    journal.once("long key", lambda: secrets[1] * 900)
    journal.commit("small", 0, secrets[2])
    journal.commit("large", 0, secrets[3] * 2000)
    journal.close()
    journal = FileJournal(tmp_path / "run")
    journal.once("later", lambda: secrets[4])
    journal.commit("large", 1, secrets[5] * 2000)

    def found():
        data = b"".join(path.read_bytes() for path in (tmp_path / "run").iterdir())
        return [secret for secret in secrets if secret in data]

    assert found() == secrets
    journal.forget()
    assert found() == []
    assert journal.stages() == {"small": 1, "large": 2}
    assert journal.read("large", 1) == b""
    journal.commit("large", 2, b"new" * 10_000)
    assert journal.read("large", 2) == b"new" * 10_000
    journal.close()
    assert found() == []
    with FileJournal(tmp_path / "run") as journal:
        assert journal.stages() == {"small": 1, "large": 3}
        assert journal.once("key", lambda: b"made again") == b"made again"


def test_a_stage_file_that_lost_its_end(tmp_path):
    with FileJournal(tmp_path) as journal:
        journal.commit("s", 0, bytes(LARGE))
        journal.commit("s", 1, bytes(LARGE))
    os.truncate(tmp_path / "s.stage", LARGE + 5)
    with FileJournal(tmp_path) as journal:
        assert journal.read("s", 0) == bytes(LARGE)
        with pytest.raises(StoreError, match="shorter than its entries") as caught:
            journal.read("s", 1)
        assert caught.value.remedy


def test_a_damaged_database(tmp_path):
    with FileJournal(tmp_path) as journal:
        journal.once("k", lambda: b"v")
    (tmp_path / "journal.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="damaged") as caught:
        FileJournal(tmp_path)
    assert caught.value.remedy


def test_after_closing(tmp_path):
    journal = FileJournal(tmp_path)
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.once("k", lambda: b"v")
    journal.close()


def test_another_process_holds_the_run(tmp_path):
    program = (
        "import sys; from pathlib import Path; from veilsum.store.journal import FileJournal\n"
        "j = FileJournal(Path(sys.argv[1])); j.once('k', lambda: b'theirs'); print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"ready\n"
        with pytest.raises(StoreError, match="another process") as caught:
            FileJournal(tmp_path)
        assert caught.value.remedy
        holder.send_signal(signal.SIGKILL)
    with FileJournal(tmp_path) as journal:  # a killed process lets go, and what it had made is kept
        assert journal.once("k", lambda: b"mine") == b"theirs"


def test_the_same_process_twice(tmp_path):
    with FileJournal(tmp_path), pytest.raises(StoreError, match="another process"):
        FileJournal(tmp_path)


def test_many_threads(tmp_path):
    journal, errors, made = FileJournal(tmp_path), [], []

    def work(name):
        try:
            journal.once("shared", lambda: made.append(name) or name.encode())
            for index in range(20):
                journal.commit(name, index, name.encode() * (LARGE if index % 5 == 0 else 1))
            for index in range(20):
                assert journal.read(name, index).startswith(name.encode())
        except BaseException as error:  # noqa: BLE001  to be seen in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(made) == 1
    assert journal.stages() == {f"t{n}": 20 for n in range(5)}
    journal.close()


def test_a_full_disk_under_a_stage(tmp_path, monkeypatch):
    journal = FileJournal(tmp_path)
    journal.commit("s", 0, b"a" * LARGE)
    whole = os.pwrite

    def half(handle, data, at):
        if at > LARGE + 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(handle, data[:2000], at)

    monkeypatch.setattr(os, "pwrite", half)
    for _ in range(2):
        with pytest.raises(StoreError, match="is full") as caught:
            journal.commit("s", 1, b"b" * LARGE)
        assert "make room" in caught.value.remedy
        assert journal.done("s") == 1
    monkeypatch.undo()
    journal.commit("s", 1, b"c" * LARGE)
    journal.close()
    with FileJournal(tmp_path) as journal:
        assert [journal.read("s", n)[:1] for n in range(2)] == [b"a", b"c"]


def _fill(journal):
    for n in range(200):
        journal.once(f"key {n}", lambda: bytes(10_000))


def test_a_limit_of_file_sizes(tmp_path):
    """A real refusal by the kernel, of the stage's file and of the database alike."""
    journal = FileJournal(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreError) as caught:
            journal.commit("s", 0, bytes(300_000))
        assert caught.value.remedy
        with pytest.raises(StoreError) as caught:
            _fill(journal)
        assert caught.value.remedy
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert journal.done("s") == 0
    journal.commit("s", 0, bytes(300_000))
    assert journal.once("key 0", lambda: b"again") == bytes(10_000)
    journal.close()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be used"):
        FileJournal(tmp_path / "file" / "run")


# -- whole files


def test_write_whole(tmp_path):
    path = tmp_path / "f"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_write_whole_on_a_full_disk(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    write_whole(path, b"one")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(StoreError, match="is full"):
        write_whole(path, b"two")
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_write_whole_under_a_file(tmp_path):
    (tmp_path / "f").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be used"):
        write_whole(tmp_path / "f" / "g", b"x")
