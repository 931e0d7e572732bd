"""One of four parties deviates, inside, above the wire: everybody honest stops, or nothing has changed."""

import contextlib
import itertools
import random
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from veilsum.errors import CheatingDetected, PeerAborted, ProtocolError
from veilsum.mpc.engine import Link
from veilsum.mpc.rss4 import RSS4
from veilsum.mpc.shares import Bits
from veilsum.testing.computing import MemoryWire, outcomes_of, rss4, together, wires

FLAT = Link(round_trip=1.0, bandwidth=1e9)  # few rounds make many runs
N = 3
FOUND = CheatingDetected | ProtocolError  # what a party says that has found something itself

X = np.uint64([5, 1 << 40, 2**64 - 9])
Y = np.uint64([7, 2**64 - 3, 11])
A = np.uint64([[3, 2**64 - 20], [9, 4]])
B = np.uint64([[2, 1], [2**64 - 60, 50]])


def program(e):
    """Do everything that an engine can, so that whatever is touched goes into something opened."""
    touched = getattr(e, "touched", lambda share: share)

    def deal(values, owner):
        return touched(e.deal(values if e.me == owner else None, owner, values.shape))

    x, y, a, b = deal(X, 0), deal(Y, 1), deal(A, 2), deal(B, 3)
    product = touched(e.multiply(x, y))
    matrix = touched(e.matmul(a, b, 2))
    middle = touched(e.truncate(matrix, 1))
    positive = touched(e.flip(touched(e.msb(middle, 9))))
    relu = touched(e.select(positive, matrix))
    one = touched(e.compose(positive))
    drawn = touched(e.compose(touched(e.random_bits((2, 2)))))
    x, y = (touched(share) for share in e.shuffle(x, y))
    return [*e.open(product, matrix, relu, x, y, one, drawn), e.reveal_bits(positive)]


class Fault(NamedTuple):
    """What the cheater changes.

    Attributes:
        where: "message": (round, receiver, word); "share": (which, component, word); "term": (which, word);
            "product": (which, pair, word); "vouch": (which,).
        how: see `changed`.
    """

    party: int
    where: str
    at: tuple[int, ...]
    how: str
    seed: int


HOWS = ("flip", "one", "top", "random", "swap", "adaptive")


def changed(words, word, how, rng, seen):
    """Return other words than these."""
    flat = words.reshape(-1).copy()
    at = word % flat.size
    old = flat.copy()
    if how == "flip":
        flat[at] ^= np.uint64(1 << rng.randrange(64))
    elif how == "one":
        flat[at : at + 1] += np.uint64(1)
    elif how == "top":
        flat[at] ^= np.uint64(1 << 63)
    elif how == "swap" and flat.size > 1:
        other = (at + 1) % flat.size
        flat[at], flat[other] = flat[other], flat[at]
    elif how == "adaptive" and seen is not None and seen.size:
        flat[at : at + 1] += seen.reshape(-1)[-1:]
    if (flat == old).all():
        flat[at] ^= np.uint64(rng.getrandbits(64) | 1)
    return flat.reshape(words.shape)


class Sending(MemoryWire):
    """Remembers what goes out, and may change a message."""

    def __init__(self, wire, fault=None):
        super().__init__(wire.me, wire._queues)
        self.fault, self.sent, self.sizes, self.seen = fault, [], [], None

    def _exchange(self, send, receive):
        number = len(self.sent)
        if self.fault and self.fault.where == "message" and self.fault.at[0] == number:
            receiver, word = self.fault.at[1:]
            other = changed(send[receiver], word, self.fault.how, random.Random(self.fault.seed), self.seen)
            send = {**send, receiver: other}
        self.sent.append({peer: array.tobytes() for peer, array in send.items()})
        self.sizes.append({peer: array.size for peer, array in send.items()})
        super()._exchange(send, receive)
        for array in receive.values():
            self.seen = array


class Cheater(RSS4):
    """Changes something of its own, finds no fault with anybody, and votes to go on."""

    def __init__(self, wire, keys, link, fault):
        super().__init__(wire, keys, link)
        self.fault = fault
        self.random = random.Random(fault.seed)
        self.counts = dict.fromkeys(("share", "term", "product", "vouch"), 0)
        self.honestly, self._dealer.share = self._dealer.share, self.sharing
        joint = self._joint
        compare, settle, absorb = joint.compare, joint.settle, joint.absorb

        def content():
            compare()

        def agreed(objection):
            with contextlib.suppress(CheatingDetected, PeerAborted):
                settle(None)

        def absorbed(sender, peer, words):
            absorb(sender, peer, self.altered("vouch", words, lambda _: 0))

        joint.compare, joint.settle, joint.absorb = content, agreed, absorbed

    def altered(self, where, words, word):
        number, self.counts[where] = self.counts[where], self.counts[where] + 1
        if self.fault.where != where or self.fault.at[0] != number:
            return words
        return changed(words, word(self.fault.at), self.fault.how, self.random, self.wire.seen)

    def touched(self, share):
        def word(at):
            return at[1] * (share.parts.size // 3) + at[2] % (share.parts.size // 3)

        parts = self.altered("share", share.parts, word)
        if isinstance(share, Bits):
            # what lies beyond the elements means nothing
            used = np.uint64((1 << share.size) - 1)
            if parts is not share.parts and ((parts ^ share.parts) & used == 0).all():
                parts = share.parts.copy()
                parts.reshape(-1)[self.fault.at[1]] ^= np.uint64(1)
            return Bits(parts, share.shape)
        return type(share)(parts)

    def sharing(self, *terms):
        self.honestly(
            *(
                term
                if term.known is None
                else term._replace(known=self.altered("term", term.known, lambda at: at[1]))
                for term in terms
            )
        )

    def times(self, x, y):
        return self._wrong(super().times(x, y))

    def times_matrix(self, x, y):
        return self._wrong(super().times_matrix(x, y))

    def _wrong(self, product):
        def word(at):
            return at[1] * (product.parts.size // 3) + at[2] % (product.parts.size // 3)

        return type(product)(self.altered("product", product.parts, word))


def keys_of(seed, party):
    keys = np.random.default_rng(seed).bytes(64)
    return [keys[16 * at : 16 * at + 16] for at in RSS4.held(party)]


@cache
def honest(seed):
    """Return the results and all parties' messages of a run without a cheater."""
    ends = [Sending(wire) for wire in wires(4)]
    results = outcomes_of(program, lambda wire: rss4(wire, seed, FLAT), ends)
    return results, [end.sent for end in ends], [end.sizes for end in ends]


def play(fault, seed, play_program=program):
    """Run with a cheater; return what the honest parties got and the cheater's wire."""
    ends = [Sending(wire, fault if wire.me == fault.party else None) for wire in wires(4)]

    def make(wire):
        if wire.me == fault.party:
            return Cheater(wire, keys_of(seed, wire.me), FLAT, fault)
        return rss4(wire, seed, FLAT)

    outcomes = outcomes_of(play_program, make, ends)
    return [outcome for party, outcome in enumerate(outcomes) if party != fault.party], ends[fault.party]


def outcome(fault):
    """Return "stopped", or "nothing changed"; anything else fails."""
    seed = fault.seed % 4
    results, sent, _ = honest(seed)
    got, wire = play(fault, seed)
    errors = [one for one in got if isinstance(one, BaseException)]
    if errors:
        assert len(errors) == 3, (fault, got)
        assert all(isinstance(error, FOUND | PeerAborted) for error in errors), (fault, errors)
        found = [error for error in errors if isinstance(error, FOUND)]
        assert found or flagged(fault), (fault, errors)
        for error in found:  # an honest party is never named alone
            assert error.message.startswith((f"computing party {fault.party} ", "messages do not agree")), (
                fault
            )
        return "stopped"
    for one in got:
        for mine, right in zip(one, results[0], strict=True):
            assert np.array_equal(mine, right), fault
    voting = fault.where == "message" and fault.at[0] in votes()
    # a change that no other party can see, or a vote that the others outvote
    assert voting or wire.sent == sent[fault.party], fault
    return "outvoted" if voting else "nothing changed"


@cache
def votes():
    """Return the rounds in which parties vote: the last two of every opening."""
    sizes = honest(0)[2][0]
    voting = {number for number, sent in enumerate(sizes) if list(sent.values()) == [1, 1, 1]}
    return voting | {number + 1 for number in voting}


def flagged(fault):
    """Whether the cheater merely says that it objects: by the first word of what is opened."""
    if fault.where != "message" or fault.at[0] in votes() or fault.at[0] + 1 not in votes():
        return False
    number, receiver, word = fault.at
    size = honest(0)[2][fault.party][number][receiver]
    return word == 0 or (fault.how == "swap" and word == size - 1)


def counted(party):
    """Return how many local values of each kind a cheater handles."""
    made = []

    def make(wire):
        if wire.me != party:
            return rss4(wire, 0, FLAT)
        made.append(Cheater(wire, keys_of(0, party), FLAT, Fault(party, "nothing", (), "one", 0)))
        return made[0]

    outcomes_of(program, make, [Sending(wire) for wire in wires(4)])
    return made[0].counts


@cache
def messages(voting):
    """Return (party, round, receiver, size) of all messages, of votes or of all else."""
    return [
        (party, number, receiver, size)
        for party, sizes in enumerate(honest(0)[2])
        for number, sent in enumerate(sizes)
        if (number in votes()) == voting
        for receiver, size in sent.items()
    ]


def faults(count):
    """Return faults, again and again at every message of every round and at every party's local values."""
    rng = random.Random(count)
    local = [
        (party, where, which)
        for party in range(4)
        for where, number in counted(party).items()
        for which in range(number)
    ]
    found = []
    while len(found) < count:
        hows = HOWS if len(found) + len(HOWS) * len(messages(False)) <= count else rng.choices(HOWS)
        found += [
            Fault(party, "message", (number, receiver, rng.randrange(size)), how, rng.getrandbits(30))
            for party, number, receiver, size in messages(False)
            for how in hows
        ]
        found += [
            Fault(
                party,
                where,
                (which, rng.randrange(3), rng.randrange(4)),
                rng.choice(HOWS),
                rng.getrandbits(30),
            )
            for party, where, which in local
        ]
    return found


def tally(chosen):
    outcomes = [outcome(fault) for fault in chosen]
    return {what: outcomes.count(what) for what in ("stopped", "nothing changed", "outvoted")}


def test_the_cheater_without_a_fault_changes_nothing():
    for party in range(4):
        assert outcome(Fault(party, "nothing", (), "one", party)) == "nothing changed"


def test_the_program_gives_what_it_should():
    product, matrix, relu, x, y, one, drawn, positive = honest(0)[0][0]
    quotient = (A @ B).view(np.int64) / 4
    assert np.array_equal(product, X * Y)
    assert (np.abs(matrix.view(np.int64) - quotient) < 1).all()
    assert np.array_equal(relu, np.where(quotient >= 0, matrix, 0))
    assert sorted(zip(x, y, strict=True)) == sorted(zip(X, Y, strict=True))
    assert np.array_equal(one, quotient >= 0)
    assert drawn.max() < 4
    assert np.array_equal(np.unpackbits(positive.view(np.uint8), bitorder="little")[:4].reshape(2, 2), one)


def test_every_fault_stops_every_honest_party():
    found = faults(600)
    random.Random(1).shuffle(found)
    told = tally(found[:600])
    assert told["outvoted"] == 0
    assert told["stopped"] > 570


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_one_of_ten_thousand_faults_stops_every_honest_party():
    told = tally(faults(10_400))
    assert told["outvoted"] == 0
    assert told["stopped"] >= 10_000


def test_a_false_vote_is_outvoted():
    rng = random.Random(2)
    told = tally(
        Fault(party, "message", (number, receiver, word), rng.choice(HOWS), rng.getrandbits(30))
        for party, number, receiver, size in messages(True)
        for word in range(size)
    )
    assert told["outvoted"] == sum(told.values()) == len(messages(True)) * 3 // 2


@pytest.mark.parametrize("party", range(4))
def test_a_dealer_cannot_give_two_versions(party):
    def deal_and_verify(e):
        e.deal(X if e.me == party else None, party, X.shape)
        e.verify()

    for receiver in RSS4.held(party)[:2]:
        got, _ = play(Fault(party, "message", (0, receiver, 1), "one", 0), 0, deal_and_verify)
        assert all(isinstance(one, CheatingDetected) for one in got)


@pytest.mark.parametrize("party", range(4))
def test_check_values_cannot_be_fitted_to_those_of_the_others(party):
    # the liar waits for what the others show, and shows what makes the total zero
    lie = next(m for m in messages(False) if m[0] == party and m[1] > 4)
    rounds = sorted({number - 3 for number in votes() if number + 1 in votes()})

    class Waiting(Sending):
        def _exchange(self, send, receive):
            if len(self.sent) == rounds[0] + 1:
                super()._exchange({}, receive)
                fitted = np.negative(sum(receive.values()))
                super()._exchange(dict.fromkeys(send, fitted), {})
                self.sent.pop()
            else:
                super()._exchange(send, receive)

    fault = Fault(party, "message", (lie[1], lie[2], 0), "one", 7)
    ends = [
        (Waiting if wire.me == party else Sending)(wire, fault if wire.me == party else None)
        for wire in wires(4)
    ]
    made = {}

    def make(wire):
        made[wire.me] = (
            rss4(wire, 7, FLAT) if wire.me != party else Cheater(wire, keys_of(7, party), FLAT, fault)
        )
        return made[wire.me]

    outcomes = outcomes_of(program, make, ends)
    for other in set(range(4)) - {party}:
        assert isinstance(outcomes[other], CheatingDetected)
        assert f"party {party} promised another" in outcomes[other].message


@pytest.mark.parametrize("party", range(4))
def test_silence_and_wrong_sizes_stop_everybody(party):
    class Quiet(Sending):
        def _exchange(self, send, receive):
            if len(self.sent) == self.fault.at[0]:
                if self.fault.how == "silent":
                    raise KeyboardInterrupt
                receiver = min(send, default=None)
                if receiver is not None:
                    send = {**send, receiver: np.append(send[receiver], np.uint64(0))}
            super()._exchange(send, receive)

    last = len(honest(0)[2][0]) - 1
    for how, number in itertools.product(("silent", "longer"), range(last)):
        if how == "longer" and not honest(0)[2][party][number]:
            continue
        fault = Fault(party, "size", (number,), how, 0)
        ends = [Quiet(wire, fault) if wire.me == party else Sending(wire) for wire in wires(4)]
        outcomes = outcomes_of(program, lambda wire: rss4(wire, 3, FLAT), ends)
        assert all(isinstance(outcomes[other], PeerAborted) for other in set(range(4)) - {party}), (
            how,
            number,
        )


def test_several_lies_at_once_do_not_cancel():
    rng = random.Random(3)
    for _ in range(60):
        party = rng.randrange(4)
        lies = rng.sample([m for m in messages(False) if m[0] == party], rng.randrange(2, 6))
        chosen = {(number, receiver): rng.randrange(size) for _, number, receiver, size in lies}

        class Lying(Sending):
            def _exchange(self, send, receive, chosen=chosen, how=rng.choice(HOWS), draw=rng):  # noqa: B008 -- this loop's
                number = len(self.sent)
                send = {
                    peer: changed(array, chosen[number, peer], how, draw, None)
                    if (number, peer) in chosen
                    else array
                    for peer, array in send.items()
                }
                super()._exchange(send, receive)

        nothing = Fault(party, "nothing", (), "one", 0)
        ends = [Lying(wire) if wire.me == party else Sending(wire) for wire in wires(4)]

        def make(wire, nothing=nothing):
            if wire.me == nothing.party:
                return Cheater(wire, keys_of(5, wire.me), FLAT, nothing)
            return rss4(wire, 5, FLAT)

        outcomes = outcomes_of(program, make, ends)
        for other in set(range(4)) - {party}:
            assert isinstance(outcomes[other], FOUND | PeerAborted), lies


def short(e):
    x = e.deal(X if e.me == 1 else None, 1, X.shape)
    return e.open(e.truncate(e.multiply(x, x), 3), e.constant(Y))


def no_false_abort(runs):
    for seed in range(runs):
        results = together(short, lambda wire, seed=seed: rss4(wire, seed, FLAT), 4)
        assert all(np.array_equal(result[1], Y) for result in results)


def test_honest_runs_never_abort():
    no_false_abort(1000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_honest_runs_never_abort():
    no_false_abort(10_000)
