"""Rows of the membership game: how well an adversary tells who matches from all that a party sees."""

import importlib

from rows import Row, limited, say

GAMES = ("hidden_one", "hidden_union")
BOUND = 0.01
HELD_OUT, QUICK = 40_000, 4_000  # rows that the adversary is judged by
_MODULE = "veilsum.testing.membership"


def rows(*, quick: bool) -> list[Row]:
    """Play the game in every mode that hides; the bound holds for the whole size only."""
    try:
        membership = importlib.import_module(_MODULE)
    except ImportError as error:
        return [limited("membership game", "advantage", None, BOUND, note=str(error))]
    count = QUICK if quick else HELD_OUT
    found = []
    for mode in GAMES:
        say(f"membership game, {mode}, {count:,} held-out rows …")
        outcome = membership.play(mode, rows=count, seed=1)
        note = f"upper end of the 95 % interval around {outcome.advantage:.4f}; small test keys"
        name = f"membership game, {mode}, {outcome.rows:,} held-out rows"
        found.append(limited(name, "advantage", outcome.upper, None if quick else BOUND, note=note))
    return found
