import os
import secrets
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veilsum.errors import BudgetExceeded, DataError, StoreError
from veilsum.jobs import Floor
from veilsum.node import ledger_file, signing_keys
from veilsum.node.signing_keys import SigningKeys, check
from veilsum.parties import PartyId, RunId

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "signing-keys.db"


def never(bits, primes):
    raise AssertionError("no key is to be made")


def memory(path, run="r1", *, peer="bob", data_set="customers", limit=100, make=never, enter=None):
    return SigningKeys(
        path, data_set=data_set, peer=PartyId(peer), run=RunId(run), limit=limit, make=make, enter=enter
    )


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def found(keys, digests, key=KEY):
    return keys.cached(key, digests)[1].tolist()


def given_counts(path):
    with sqlite3.connect(path) as database:
        counts = dict(database.execute("SELECT run, count FROM given"))
    database.close()
    return counts


def damage(path, statement):
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()


# -- keys


def test_a_key_is_made_once_for_its_data_set_and_sizes(path):
    made = []

    def make(bits, primes):
        made.append((bits, primes))
        return secrets.token_bytes(8)

    one = memory(path, make=make)
    first = one.reusable(3072, 2)
    assert one.reusable(3072, 2) == memory(path, "r2", peer="eve").reusable(3072, 2) == first
    others = {one.reusable(2048, 2), one.reusable(3072, 3)}
    others.add(memory(path, data_set="members", make=make).reusable(3072, 2))
    assert len(others | {first}) == 4
    assert made == [(3072, 2), (2048, 2), (3072, 3), (3072, 2)]
    assert check(path) == 4


def test_a_key_is_made_once_by_two_who_open_the_file_together(path):
    made, results, together = [], [], threading.Barrier(4)

    def make(bits, primes):
        made.append(1)
        together_is_over.wait(0.1)
        return secrets.token_bytes(8)

    def use(number):
        together.wait()
        results.append(memory(path, f"r{number}", make=make).reusable(2048, 2))

    together_is_over = threading.Event()
    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(results)) == 1
    assert len(results) == 4


def test_a_key_that_could_not_be_made_is_not_kept(path):
    def fail(bits, primes):
        raise DataError("no key")

    with pytest.raises(DataError, match="no key"):
        memory(path, make=fail).reusable(2048, 2)
    assert memory(path, make=lambda bits, primes: b"key").reusable(2048, 2) == b"key"


# -- the quota


def test_signatures_are_counted_over_runs_for_each_key_and_peer(path):
    memory(path, "r1").allow(KEY, 60)
    memory(path, "r2").allow(KEY, 40)
    with pytest.raises(BudgetExceeded, match=r"bob would be given 1 .* after 100 .*max_signatures") as caught:
        memory(path, "r3").allow(KEY, 1)
    assert "owner" in caught.value.remedy
    assert caught.value.run == "r3"
    memory(path, "r3").allow(OTHER_KEY, 100)
    memory(path, "r3", peer="eve").allow(KEY, 100)
    memory(path, "r3").allow(KEY, 0)
    memory(path, "r4", limit=101).allow(KEY, 1)  # the owner has raised it
    with pytest.raises(BudgetExceeded):
        memory(path, "r5", data_set="members", limit=101).allow(KEY, 1)  # it is the same key


def test_one_run_alone_may_not_pass_the_limit(path):
    with pytest.raises(BudgetExceeded) as caught:
        memory(path).allow(KEY, 101)
    assert "earlier" not in caught.value.message
    memory(path, "r2").allow(KEY, 100)
    assert given_counts(path) == {"r2": 100}


def test_a_resumed_run_counts_once_and_nothing_is_entered_on_refusal(path):
    memory(path, "r1").allow(KEY, 30)
    for count in (50, 50, 20):
        memory(path, "r2").allow(KEY, count)
        assert given_counts(path) == {"r1": 30, "r2": 50}
    memory(path, "r2").allow(KEY, 70)
    with pytest.raises(BudgetExceeded):
        memory(path, "r2").allow(KEY, 71)
    assert given_counts(path) == {"r1": 30, "r2": 70}


def test_a_further_account_can_refuse_and_never_says_less(path):
    entered = []

    def enter(count):
        if count > 50:
            raise BudgetExceeded("the other account is full")
        entered.append(count)

    memory(path, "r1", enter=enter).allow(KEY, 50)
    with pytest.raises(BudgetExceeded, match="other account"):
        memory(path, "r2", limit=200, enter=enter).allow(KEY, 51)
    assert given_counts(path) == {"r1": 50}
    with pytest.raises(BudgetExceeded, match="max_signatures"):
        memory(path, "r2", limit=60, enter=enter).allow(KEY, 20)
    memory(path, "r1", enter=enter).allow(KEY, 20)
    assert entered == [50, 50]


def test_two_runs_at_once_do_not_pass_the_limit_together(path):
    outcomes = []

    def use(number):
        try:
            memory(path, f"r{number}").allow(KEY, 30)
            outcomes.append(True)
        except BudgetExceeded:
            outcomes.append(False)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(outcomes), sum(outcomes)) == (8, 3)
    assert sum(given_counts(path).values()) == 90


PROGRAM = """
import os, pathlib, sys
import numpy as np
from veilsum.node.signing_keys import SigningKeys
keys = SigningKeys(pathlib.Path(sys.argv[1]), data_set="customers", peer="bob", run=sys.argv[2], limit=100,
                   make=lambda bits, primes: os.urandom(8))
print(keys.reusable(2048, 2).hex(), flush=True)
keys.allow(b"k" * 32, 30)
digests = np.full((1, 32), int(sys.argv[2]), np.uint8)
keys.keep(b"k" * 32, digests, digests)
os.kill(os.getpid(), 9)
"""


def test_two_processes_at_once_and_their_death(path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, str(run)], env=environment, stdout=subprocess.PIPE
        )
        for run in (1, 2)
    ]
    told = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [-9, -9]
    assert told == {memory(path).reusable(2048, 2).hex().encode() + b"\n"}
    assert given_counts(path) == {"1": 30, "2": 30}
    digests = np.repeat(np.array([[1], [2], [3]], np.uint8), 32, axis=1)
    assert found(memory(path), digests) == [True, True, False]


def test_the_owners_default_is_wide_and_finite():
    assert 10**9 <= Floor().max_signatures < 2**63


@pytest.mark.parametrize("call", [(b"short", 1), (KEY, -1)])
def test_what_cannot_be_counted_is_refused(path, call):
    with pytest.raises(ValueError):
        memory(path).allow(*call)
    assert not path.exists()


# -- tags


def test_tags_are_found_again_under_their_key_alone(path):
    digests, tags = rows(100), rows(100, seed=1)
    memory(path).keep(KEY, digests[:50], tags[:50])
    for keys in (memory(path), memory(path, "r2", peer="eve")):
        got, have = keys.cached(KEY, digests)
        assert have.tolist() == [True] * 50 + [False] * 50
        assert (got[:50] == tags[:50]).all()
        assert not got[50:].any()
        assert not any(found(keys, digests, OTHER_KEY))
    none, have = memory(path).cached(KEY, digests[:0])
    assert (none.shape, have.shape, none.dtype, have.dtype) == ((0, 32), (0,), np.uint8, np.bool_)


def test_one_who_keeps_finds_at_once_whatever_is_sorted_in(path, monkeypatch):
    monkeypatch.setattr(signing_keys, "_STAGED", 25)
    digests, tags = rows(100), rows(100, seed=1)
    keys = memory(path)
    for start in range(0, 100, 10):
        assert not any(found(keys, digests[start:]))
        keys.keep(KEY, digests[start : start + 10], tags[start : start + 10])
        got, have = keys.cached(KEY, digests[::-1])
        assert have.tolist() == [place < start + 10 for place in reversed(range(100))]
        assert (got[have] == tags[::-1][have]).all()


def test_the_first_tag_of_a_digest_stays(path, monkeypatch):
    monkeypatch.setattr(signing_keys, "_STAGED", 3)
    digest, tags = rows(1), rows(4, seed=1)
    keys = memory(path)
    for number in range(4):  # waiting, waiting, sorted in, waiting
        keys.keep(KEY, digest, tags[number : number + 1])
        for one in (keys, memory(path, "r2") if number == 3 else keys):
            assert (one.cached(KEY, digest)[0] == tags[:1]).all()


def test_digests_that_begin_alike_never_get_each_others_tag(path):
    digests = rows(2)
    digests[1, :8] = digests[0, :8]
    keys = memory(path)
    for index in range(2):
        keys.keep(KEY, digests[index : index + 1], rows(1, seed=index))
    for one in (keys, memory(path)):
        got, have = one.cached(KEY, digests)
        assert have[0]
        for index in np.flatnonzero(have):
            assert (got[index] == rows(1, seed=index)).all()


NUMBERS = st.lists(st.integers(0, 40), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.sampled_from(["keep", "look", "open"]), NUMBERS, st.booleans()), max_size=8),
    staged=st.integers(1, 30),
)
def test_it_does_what_a_dictionary_does(tmp_path_factory, monkeypatch, steps, staged):
    monkeypatch.setattr(signing_keys, "_STAGED", staged)
    path = tmp_path_factory.mktemp("keys") / "signing-keys.db"
    pool, keys, expected = rows(41), memory(path), {}
    for turn, (step, numbers, other) in enumerate(steps):
        key, digests = (OTHER_KEY if other else KEY), pool[numbers]
        if step == "keep":
            tags = rows(len(numbers), seed=turn)
            keys.keep(key, digests, tags)
            for number, tag in zip(numbers, tags.tolist(), strict=True):
                expected.setdefault((other, number), tag)
        elif step == "open":
            keys = memory(path)
        got, have = keys.cached(key, digests)
        assert have.tolist() == [(other, number) in expected for number in numbers]
        assert got.tolist() == [expected.get((other, number), [0] * 32) for number in numbers]


@pytest.mark.parametrize(
    ("key", "digests", "tags"),
    [
        (b"short", rows(1), rows(1)),
        (KEY, rows(1)[:, :31], rows(1)),
        (KEY, rows(1), rows(1).astype(np.int64)),
        (KEY, rows(2), rows(1)),
        (KEY, rows(1)[0], rows(1)),
    ],
)
def test_what_has_another_shape_is_refused(path, key, digests, tags):
    with pytest.raises(ValueError):
        memory(path).keep(key, digests, tags)
    assert not path.exists()


# -- the file


def everything(path):
    """Return every use of the memory."""
    keys = memory(path, "r9")
    return [
        lambda: keys.reusable(2048, 2),
        lambda: keys.allow(KEY, 1),
        lambda: keys.cached(KEY, rows(1)),
        lambda: keys.keep(KEY, rows(1), rows(1)),
    ]


def filled(path):
    keys = memory(path, make=lambda bits, primes: b"the private key")
    keys.reusable(2048, 2)
    keys.allow(KEY, 7)
    keys.keep(KEY, rows(9), rows(9, seed=1))
    keys.cached(KEY, rows(1))
    return keys


def test_only_its_owner_reads_it(path):
    filled(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    memory(path).allow(KEY, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_it_shows_is_no_secret(path):
    keys = filled(path)
    keys.keep(KEY, rows(5), rows(5, seed=1))
    assert repr(keys) == "SigningKeys('customers', peer bob, run r1)"
    path.write_bytes(b"no database" * 1000)
    for use in everything(path):
        with pytest.raises(StoreError) as caught:
            use()
        told = str(caught.value) + caught.value.remedy
        assert "private" not in told
        assert KEY.decode() not in told
        assert KEY.hex() not in told


def test_a_file_in_use_is_named(path, monkeypatch):
    filled(path)
    monkeypatch.setattr(ledger_file, "_WAIT", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for use in everything(path):
        with pytest.raises(StoreError, match="in use") as caught:
            use()
        assert "wait" in caught.value.remedy
    other.close()
    for use in everything(path):
        use()


def test_a_damaged_file_means_refusal_and_is_not_replaced(path):
    filled(path)
    content = b"this is no database" * 100
    path.write_bytes(content)
    for use in (*everything(path), lambda: check(path)):
        with pytest.raises(StoreError) as caught:
            use()
        assert "backup" in caught.value.remedy
    assert path.read_bytes() == content


def test_a_page_that_is_damaged_is_named(path):
    filled(path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    for use in (*everything(path), lambda: check(path)):
        with pytest.raises(StoreError):
            use()


def test_a_tag_that_is_damaged_is_named(path):
    filled(path)
    damage(path, "UPDATE tag SET record = x'00'")
    with pytest.raises(StoreError, match="a tag is damaged"):
        memory(path).cached(KEY, rows(9))


def test_a_full_disk_is_named_and_nothing_is_half_kept(path, monkeypatch):
    filled(path)
    original = sqlite3.connect

    def small(*arguments, **options):
        database = original(*arguments, **options)
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    keys = memory(path)
    with pytest.raises(StoreError, match="full") as caught:
        keys.keep(KEY, rows(5000, seed=5), rows(5000))
    assert "free" in caught.value.remedy
    assert not any(found(keys, rows(5000, seed=5)))
    assert all(found(keys, rows(9)))


def test_no_file_yet_is_in_order(path):
    assert check(path) == 0
    assert not path.exists()
