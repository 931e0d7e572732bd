"""The membership game: can a party tell which of its own rows match, from everything that it has seen?

A party that must not learn the matches of an alignment is the attacker. Its `View` holds every list that it
was sent, sent, or keeps in its journal, and for each of its own rows all places of lists that it can link
to the row. `features` turns a view into numbers for each row; `play` teaches several guessers on some rows,
whose answers the attacker is told, keeps the one that guesses best on others, and lets it guess the rest.

The *advantage* is |2·accuracy - 1| on those held-out rows, half of which match: 0 for a coin, 1 for one who
knows. Guessers are logistic regression on all features together, the best bucket table of a single feature,
and boosted tables of the strongest features. A small advantage shows the absence of those leaks alone that
such guessers can find; a proof it is not.

Source: the bound is E. Wilson's score interval (Journal of the American Statistical Association 22, 1927),
one-sided.
"""

import itertools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import blind_rsa
from veilsum.crypto.blind_rsa import PublicKey
from veilsum.crypto.private_id import NAME_BYTES
from veilsum.data.alignment import NO_ROW
from veilsum.net.messages import Message
from veilsum.net.ports import Journal
from veilsum.net.session import Session
from veilsum.parties import PartyId
from veilsum.protocols import hidden_psi, hidden_union

Play = Callable[[Session], Awaitable[Any]]
Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float32]

ENDS: Final = 3
"""Of an item the first and last so many bytes are features each; what lies between enters by differences."""
BUCKETS: Final = 32
ROUNDS: Final = 24
STRONGEST: Final = 64
MOST: Final = 256
"""So many features, the strongest, enter the regression."""
Z95: Final = 1.6448536269514722
"""95 % of a standard normal lie below."""
TINY: Final = 1e-9


# -- what a party saw


class Heard(NamedTuple):
    """One message's arrival."""

    sender: str
    message: Message


def listening(part: Play, heard: list[Heard]) -> Play:
    """Play a part as it is, and note every protocol message that its protocol reads, in the order read."""

    async def play(s: Session) -> Any:
        for name, peer in s.peers.items():
            _listen(name, peer, heard)
        return await part(s)

    return play


def _listen(name: str, peer: Any, heard: list[Heard]) -> None:
    recv, stream = peer.recv, peer.stream

    async def noted(cls: type[Message]) -> Message:
        message: Message = await recv(cls)
        heard.append(Heard(name, message))
        return message

    async def all_noted(cls: type[Message]) -> Any:
        async for message in stream(cls):
            heard.append(Heard(name, message))
            yield message

    peer.recv, peer.stream = noted, all_noted


class View(NamedTuple):
    """All that a party saw in one run, as lists of items, and what it can link to its rows.

    Attributes:
        rows: how many rows the party has.
        lists: name → its items in the order seen, (n, width) uint8.
        links: name → per row a place in the lists, (rows,) int64; every link is tried with every list.
        batch: items of a message.
        arrivals: name of a list → when its batches came, (batches,) int64 counted over all messages.
    """

    rows: int
    lists: Mapping[str, Bytes]
    links: Mapping[str, NDArray[np.int64]]
    batch: int
    arrivals: Mapping[str, NDArray[np.int64]]


def lists_heard(heard: Sequence[Heard]) -> tuple[dict[str, Bytes], dict[str, NDArray[np.int64]]]:
    """Return the lists that came in batches of messages, and when each batch came."""
    parts: dict[str, list[Bytes]] = {}
    arrivals: dict[str, list[int]] = {}
    for when, (_, message) in enumerate(heard):
        if message.wire.buffers:
            name = type(message).__name__
            array = np.ascontiguousarray(getattr(message, message.wire.buffers[0][0]))
            parts.setdefault(name, []).append(array.view(np.uint8).reshape(len(array), -1))
            arrivals.setdefault(name, []).append(when)
    lists = {name: np.concatenate(found) for name, found in parts.items()}
    return lists, {name: np.array(found, np.int64) for name, found in arrivals.items()}


def signer_view(
    journal: Journal, heard: Sequence[Heard], public: PublicKey, sizes: Mapping[PartyId, int], batch: int
) -> View:
    """Return what the signer of `veilsum.protocols.hidden_psi` saw of a run that ended well.

    Args:
        journal: the signer's.
        heard: by the signer.
        public: its key.
        sizes: signer and client with the numbers of their ids.
        batch: as in the job.
    """
    rows, width = next(iter(sizes.values())), hidden_psi.tag_width(dict(sizes))
    lists, arrivals = lists_heard(heard)
    lists["SignedIds"] = _stage(journal, "signed", public.width)
    lists["tags of SignedIds"] = blind_rsa.tags(public, lists["SignedIds"], width)
    lists["own tags"] = _stage(journal, "own tags", width + 8)[:, :width]
    tags = _stage(journal, "sorted tags", width + 8)
    lists["Tags"] = tags[:, :width]
    own = np.ascontiguousarray(tags[:, width:]).view("<i8")[:, 0]
    links = {"row": np.arange(rows, dtype=np.int64), "tag": _inverse(own, rows)}
    return View(rows, lists, links, batch, arrivals)


def member_view(journal: Journal, heard: Sequence[Heard], rows: int, batch: int) -> View:
    """Return what a member of `veilsum.protocols.hidden_union` saw of a run that ended well.

    Args:
        journal: this member's.
        heard: by this member.
        rows: how many ids it has.
        batch: as in the job.
    """
    lists, arrivals = lists_heard(heard)
    for name in ("masked", "their matched", "named", "shuffled", "exclusive"):
        lists[name] = _stage(journal, name, hidden_union.POINT)
    for name in ("own names", "their names"):
        lists[name] = _stage(journal, name, NAME_BYTES)
    lines = _stage(journal, "lines", hidden_union.LINE.itemsize).view(hidden_union.LINE)[:, 0]
    held = lines["row"] != NO_ROW
    lists["lines"], lists["held"] = lines["id"], held.astype(np.uint8)[:, None]
    sent = _stage(journal, "rows", 8).view("<i8")[:, 0]
    links = {"row": np.arange(rows, dtype=np.int64), "sent": _inverse(sent, rows)}
    links["line"] = np.empty(rows, np.int64)
    links["line"][lines["row"][held]] = np.flatnonzero(held)
    return View(rows, lists, links, batch, arrivals)


def _stage(journal: Journal, name: str, width: int) -> Bytes:
    data = b"".join(journal.read(name, index) for index in range(journal.done(name)))
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def _inverse(order: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    place = np.empty(rows, np.int64)
    place[order] = np.arange(rows)
    return place


# -- what can be made of it


def features(view: View) -> Numbers:
    """Return numbers for each row, (rows, features) float32: of items, neighbours, ranks, differences.

    For every link and list: the item's bytes, its rank in the list, its neighbours' bytes, and whether and
    where it comes in other lists; for every link: the place itself, its batch and its arrival; for every
    pair of lists at one link: which is larger, and how much their bits differ.
    """
    lists = {name: items for name, items in view.lists.items() if len(items)}
    ranks = {name: _ranks(items) for name, items in lists.items()}
    found: list[NDArray[Any]] = []
    for link in view.links.values():
        found += _of_places(view, link)
        heads = {}
        for name, items in lists.items():
            at = link % len(items)
            found += _of_items(items, ranks[name], at, link)
            heads[name] = _ends(items)[at]
        found += _of_pairs(list(heads.values()))
    for one, other in itertools.permutations(lists, 2):
        common = _found_in(lists[one], lists[other])
        if common.any():  # else it tells no rows apart
            found += [common[link % len(common)] for link in view.links.values()]
    return np.stack([np.asarray(column, np.float32) for column in found], axis=1)


def _of_places(view: View, place: NDArray[np.int64]) -> list[NDArray[Any]]:
    batches = place // view.batch
    came = [times[np.minimum(batches, len(times) - 1)] for times in view.arrivals.values()]
    return [place, place % view.batch, batches, place % 2, place % 3, place % 16, *came]


def _of_items(
    items: Bytes, ranks: NDArray[np.int64], at: NDArray[np.int64], place: NDArray[np.int64]
) -> list[NDArray[Any]]:
    ends = _ends(items)
    found = list(ends[at].T)
    rank = ranks[at]
    for step in (-1, 1):
        neighbours = (at + step) % len(items)
        found += [ends[neighbours, 0], ranks[neighbours] - rank]
    return [*found, rank, rank - place, np.bitwise_count(items[at]).sum(axis=1)]


def _of_pairs(heads: list[Bytes]) -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = []
    for one, other in itertools.combinations(heads, 2):
        width = min(one.shape[1], other.shape[1])
        differing = one[:, :width] ^ other[:, :width]
        found += [np.bitwise_count(differing).sum(axis=1), one[:, 0].astype(np.int64) - other[:, 0]]
    return found


def _ends(items: Bytes) -> Bytes:
    return (
        items if items.shape[1] <= 2 * ENDS else np.concatenate([items[:, :ENDS], items[:, -ENDS:]], axis=1)
    )


def _words(items: Bytes) -> NDArray[np.uint64]:
    """Return the first eight bytes as a number; shorter items are filled up."""
    padded = np.zeros((len(items), 8), np.uint8)
    padded[:, : items.shape[1]] = items[:, :8]
    return padded.view(">u8")[:, 0].astype(np.uint64)


def _ranks(items: Bytes) -> NDArray[np.int64]:
    ranks = np.empty(len(items), np.int64)
    ranks[np.argsort(_words(items), kind="stable")] = np.arange(len(items))
    return ranks


def _found_in(items: Bytes, others: Bytes) -> NDArray[np.bool_]:
    """Tell which items begin, or end, as some item of another list does."""
    width = min(8, items.shape[1], others.shape[1])
    if width < 8:  # too short to be found by anything but chance
        return np.zeros(len(items), np.bool_)
    tails = _words(np.ascontiguousarray(items[:, -8:])), _words(np.ascontiguousarray(others[:, -8:]))
    found: NDArray[np.bool_] = np.isin(_words(items), _words(others)) | np.isin(*tails)
    return found


# -- the game


class Score(NamedTuple):
    """How well a party guessed.

    Attributes:
        guesser: the one that was kept.
        held_out: rows guessed, as many matched as not.
        accuracy: how many of them were guessed right, 0 to 1.
        advantage: |2·accuracy - 1|.
        upper: what the advantage is below, with 95 % confidence.
    """

    guesser: str
    held_out: int
    accuracy: float
    advantage: float
    upper: float


def play(seen: Numbers, matched: NDArray[np.bool_], *, seed: int, held_out: float = 0.65) -> Score:
    """Play the game with rows whose truth is known.

    Args:
        seen: (rows, features) float32; rows of several runs may stand under one another.
        matched: (rows,) bool, the truth.
        seed: of the split; nothing else is random.
        held_out: the part of rows that is only guessed.
    """
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(np.flatnonzero(matched == truth)) for truth in (False, True)]
    size = min(map(len, pools))  # as many of either, so that a constant guess is worth nothing
    cut, fit = round(size * (1 - held_out)), round(size * (1 - held_out) * 0.7)
    taught, chosen, guessed = (
        np.sort(np.concatenate([pool[start:end] for pool in pools]))
        for start, end in ((0, fit), (fit, cut), (cut, size))
    )
    guessers = _teach(seen[taught], matched[taught])
    quality = [
        abs(2 * _accuracy(guesser, seen[chosen], matched[chosen]) - 1) for guesser in guessers.values()
    ]
    name = list(guessers)[int(np.argmax(quality))]
    return score(name, _accuracy(guessers[name], seen[guessed], matched[guessed]), len(guessed))


def score(name: str, accuracy: float, count: int) -> Score:
    """Return a score with its bound, from the accuracy on ``count`` rows."""
    right = max(accuracy, 1 - accuracy)
    spread = Z95 * math.sqrt(right * (1 - right) / count + Z95**2 / (4 * count**2))
    bound = (right + Z95**2 / (2 * count) + spread) / (1 + Z95**2 / count)
    return Score(name, count, accuracy, 2 * right - 1, min(1.0, 2 * bound - 1))


Guesser = Callable[[Numbers], NDArray[np.bool_]]


def _accuracy(guesser: Guesser, seen: Numbers, matched: NDArray[np.bool_]) -> float:
    return float(np.mean(guesser(seen) == matched))


def _teach(seen: Numbers, matched: NDArray[np.bool_]) -> dict[str, Guesser]:
    tables = _Tables(seen)
    signs = np.where(matched, 1.0, -1.0)
    gains = tables.gains(signs / len(signs), range(seen.shape[1]))
    strongest = np.argsort(-gains)[:STRONGEST].tolist()
    return {
        "logistic regression": _logistic(seen, matched, np.argsort(-gains)[:MOST]),
        "one feature": tables.boosted(signs, strongest[:1], 1),
        "boosted features": tables.boosted(signs, strongest, ROUNDS),
    }


def _logistic(seen: Numbers, matched: NDArray[np.bool_], columns: NDArray[np.int64]) -> Guesser:
    """Fit by a few steps of Newton's method with a ridge, on standardised features."""
    mean = seen[:, columns].mean(axis=0, dtype=np.float64)
    spread = seen[:, columns].std(axis=0, dtype=np.float64) + TINY

    def standardised(rows: Numbers) -> Numbers:
        found: Numbers = np.clip((rows[:, columns] - mean) / spread, -8, 8).astype(np.float32)
        return found

    known, weights = standardised(seen), np.zeros(len(columns))
    for _ in range(3):
        chance = 1 / (1 + np.exp(-np.clip(known @ weights, -30, 30)))
        gradient = known.T @ (matched - chance) - weights
        curved = known * np.sqrt(chance * (1 - chance)).astype(np.float32)[:, None]
        curvature = (curved.T @ curved).astype(np.float64) + np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return lambda rows: standardised(rows) @ weights > 0


class _Tables:
    """Features in buckets of about equally many rows, and guesses by the majority of a bucket."""

    def __init__(self, seen: Numbers) -> None:
        quantiles = np.linspace(0, 1, BUCKETS + 1)[1:-1]
        self._edges = np.quantile(seen, quantiles, axis=0, method="higher")
        self._buckets = [self._bucket(seen, column) for column in range(seen.shape[1])]

    def gains(self, weights: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
        """Return how far the best table of each feature is better than a coin under signed weights."""
        tables = [np.bincount(self._buckets[column], weights, BUCKETS) for column in columns]
        found: NDArray[np.float64] = np.abs(tables).sum(axis=1)
        return found

    def boosted(self, signs: NDArray[np.float64], columns: Sequence[int], rounds: int) -> Guesser:
        """Add up tables of logarithmic odds, each of the feature best where those before were wrong."""
        chosen: list[tuple[int, NDArray[np.float64]]] = []
        margins = np.zeros(len(signs))
        for _ in range(rounds):
            weights = np.exp(-np.clip(signs * margins, -30, 30))
            weights /= weights.sum()
            column = columns[int(np.argmax(self.gains(signs * weights, columns)))]
            buckets, smooth = self._buckets[column], 1 / len(signs)
            for_it, against = (
                np.bincount(buckets, weights * (signs == sign), BUCKETS) + smooth for sign in (1, -1)
            )
            table = 0.5 * np.log(for_it / against)
            margins = margins + table[buckets]
            chosen.append((column, table))
        return lambda rows: self._added_up(rows, chosen) > 0

    def _added_up(
        self, rows: Numbers, chosen: Sequence[tuple[int, NDArray[np.float64]]]
    ) -> NDArray[np.float64]:
        margins = np.zeros(len(rows))
        for column, table in chosen:
            margins += table[self._bucket(rows, column)]
        return margins

    def _bucket(self, seen: Numbers, column: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.searchsorted(self._edges[:, column], seen[:, column], side="right")
        return found
