"""What two of four parties both know and a third needs: one sends it, the other vouches for it.

The voucher and the receiver keep running digests of what was sent. Before anything is opened `Joint.compare`
finds out whether all of them agree, and `Joint.settle` makes all honest parties go on or stop together.

A digest is never shown. After a lie honest parties hold values that differ by what depends on secrets, and
the digest of such a value lets its reader test guesses. So each comparison becomes a tag under a key that the
one whose message it is about does not have; all tags are added up, with opposite signs at the two who
compare; each party's sum is hidden by a random sharing of zero, committed to and shown. The total is zero if
everything agrees. After a lie it holds a tag that the liar cannot compute, and says nothing else.

Then each party tells each whether it objects, and what it heard from the others: with four parties of which
one lies, the majority of the reports is the same everywhere (Lamport, Shostak and Pease 1982), so a liar
cannot make some go on and others stop.
"""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from veilsum.crypto.prg import Prg
from veilsum.errors import CheatingDetected, PeerAborted, ProtocolError, VeilsumError
from veilsum.mpc.shares import Words
from veilsum.mpc.wire import Wire

PARTIES: Final = 4
DIGEST: Final = 4  # words of SHA-256
_TAG: Final = Struct("<4sQBBB5xQQ")
_ZERO: Final = Struct("<4sQB")
_REMEDY: Final = "nothing was opened; find out who runs other software before these parties compute again"


class Message(NamedTuple):
    """Words that ``sender`` and ``voucher`` know and ``receiver`` gets.

    Attributes:
        words: contiguous; what is known, or at the receiver the array to fill. Not changed afterwards.
    """

    sender: int
    voucher: int
    receiver: int
    words: Words


class Joint:
    """One party's side of the messages that two know.

    Args:
        wire: connects the four.
        keys: by component, of those that this party holds; 16 bytes each.
        generators: of the same components, whose positions are compared too.
    """

    def __init__(self, wire: Wire, keys: Mapping[int, bytes], generators: Mapping[int, Prg]) -> None:
        self.wire, self.me = wire, wire.me
        self.others = tuple(party for party in range(PARTIES) if party != self.me)
        self._generators = generators
        self._macs = {component: derived(key, b"tags") for component, key in keys.items()}
        self._marks = {component: derived(key, b"mark") for component, key in keys.items()}
        self._heard = {
            (sender, peer): sha256()
            for peer in self.others
            for sender in range(PARTIES)
            if sender not in {self.me, peer}
        }
        self._checks = 0

    # -- messages

    def tell(self, messages: Iterable[Message]) -> None:
        """Play one round with any number of messages, the same list at all parties."""
        outgoing: dict[int, list[Words]] = {}
        incoming: dict[int, list[Words]] = {}
        compared: list[tuple[int, int, Words]] = []
        for sender, voucher, receiver, words in messages:
            if self.me == sender:
                outgoing.setdefault(receiver, []).append(words)
            elif self.me == voucher:
                compared.append((sender, receiver, words))
            elif self.me == receiver:
                incoming.setdefault(sender, []).append(words)
                compared.append((sender, voucher, words))
        filled = {
            peer: arrays[0] if len(arrays) == 1 else np.empty(sum(array.size for array in arrays), np.uint64)
            for peer, arrays in incoming.items()
        }
        self.wire.exchange({peer: _as_one(arrays) for peer, arrays in outgoing.items()}, filled)
        for peer, arrays in incoming.items():
            if len(arrays) > 1:
                at = 0
                for array in arrays:
                    array.reshape(-1)[...] = filled[peer][at : at + array.size]
                    at += array.size
        for sender, peer, words in compared:
            self.absorb(sender, peer, words)

    def absorb(self, sender: int, peer: int, words: Words) -> None:
        """Take in what ``sender`` said, or was to say, to this party or ``peer``, who takes in the same."""
        self._heard[sender, peer].update(words.reshape(-1).data)

    # -- checks

    def compare(self) -> VeilsumError | None:
        """Return what this party objects to in all that was said so far; two rounds."""
        self._checks += 1
        tags = self._tags()
        positions = {peer: self._positions(peer) for peer in self.others}
        promised = {peer: np.empty(DIGEST + 2, np.uint64) for peer in self.others}
        mine = self._commitment(self.me, tags)
        sent = {peer: np.concatenate([mine, position]) for peer, position in positions.items()}
        self.wire.exchange(sent, promised)
        shown = {peer: np.empty(DIGEST, np.uint64) for peer in self.others}
        self.wire.exchange(dict.fromkeys(self.others, tags), shown)
        if self.wire.dry:
            return None
        for peer, position in positions.items():
            if (promised[peer][DIGEST:] != position).any():
                return ProtocolError(
                    f"computing party {peer} has drawn other random numbers: it runs another program",
                    remedy="give all computing parties the same version of veilsum, job and model",
                )
        for peer in self.others:
            if (self._commitment(peer, shown[peer]) != promised[peer][:DIGEST]).any():
                return CheatingDetected(
                    f"computing party {peer} promised another check value than it showed", remedy=_REMEDY
                )
        if np.add.reduce([tags, *shown.values()], axis=0).any():
            return CheatingDetected(
                f"messages do not agree: one of the computing parties {_listed(self.others)} deviated",
                remedy=_REMEDY,
            )
        return None

    def settle(self, objection: VeilsumError | None) -> None:
        """Go on if no party objects, or stop; the same at all honest parties. Two rounds.

        Raises:
            VeilsumError: what this party objects to.
            PeerAborted: another party objects.
        """
        vote = np.array([objection is not None], np.uint64)
        votes = {peer: np.empty(1, np.uint64) for peer in self.others}
        self.wire.exchange(dict.fromkeys(self.others, vote), votes)
        relayed = {peer: np.empty(2, np.uint64) for peer in self.others}
        self.wire.exchange(
            {peer: np.concatenate([votes[party] for party in self._besides(peer)]) for peer in self.others},
            relayed,
        )
        if objection is not None:
            raise objection
        for party in self.others:
            reports = [votes[party][0]]
            for witness in self._besides(party):
                about = [p for p in range(PARTIES) if p not in {self.me, witness}].index(party)
                reports.append(relayed[witness][about])
            if np.count_nonzero(reports) >= 2:
                raise objected(party)

    def _tags(self) -> Words:
        total = np.zeros(DIGEST, np.uint64)
        for sender, peer in self._heard:
            tag = self._tag(sender, peer)
            total += tag if self.me < peer else np.negative(tag)
        for component, mac in self._macs.items():
            holders = [party for party in range(PARTIES) if party != component]
            at = holders.index(self.me)
            total += _words_of(mac, _ZERO.pack(b"zero", self._checks, at))
            total -= _words_of(mac, _ZERO.pack(b"zero", self._checks, (at + 1) % len(holders)))
        return total

    def _tag(self, sender: int, peer: int) -> Words:
        """Return what this party and ``peer`` compare about ``sender``, who cannot compute it."""
        # bound to the other key that the two have in common, too: if its maker gave them two, tags differ
        fourth = sum(range(PARTIES)) - self.me - sender - peer
        low, high = sorted((self.me, peer))
        positions = (self._generators[component].position for component in (sender, fourth))
        text = _TAG.pack(b"tag", self._checks, sender, low, high, *positions)
        return _words_of(self._macs[sender], text + self._marks[fourth] + self._heard[sender, peer].digest())

    def _commitment(self, party: int, tags: Words) -> Words:
        # tags are 256 bits that look random to others: they hide themselves
        text = _ZERO.pack(b"show", self._checks, party) + tags.tobytes()
        return np.frombuffer(sha256(text).digest(), np.uint64)

    def _positions(self, peer: int) -> Words:
        common = (c for c in range(PARTIES) if c not in {self.me, peer})
        return np.array([self._generators[component].position for component in common], np.uint64)

    def _besides(self, peer: int) -> list[int]:
        return [party for party in self.others if party != peer]


def objected(party: int) -> PeerAborted:
    """Return the error of who goes on no further because another party objects."""
    return PeerAborted(
        f"computing party {party} says that a check failed", cause=CheatingDetected.__name__, remedy=_REMEDY
    )


def derived(key: bytes, purpose: bytes) -> bytes:
    """Return a key for one purpose, 32 bytes."""
    return hmac.digest(key, b"veilsum rss4 " + purpose, "sha256")


def digest(purpose: bytes, words: Words) -> Words:
    """Return the SHA-256 of words for one purpose, as 4 words."""
    state = sha256(purpose)
    state.update(words.reshape(-1).data)
    return np.frombuffer(state.digest(), np.uint64)


def _words_of(mac: bytes, text: bytes) -> Words:
    return np.frombuffer(hmac.digest(mac, text, "sha256"), np.uint64)


def _as_one(arrays: Sequence[Words]) -> Words:
    return arrays[0] if len(arrays) == 1 else np.concatenate([array.reshape(-1) for array in arrays])


def _listed(parties: Sequence[int]) -> str:
    return ", ".join(map(str, parties[:-1])) + f" and {parties[-1]}"
