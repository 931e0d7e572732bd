"""Rows of the membership game: how well an adversary tells who matches from all that a party sees.

The game is that of ``tests/protocols/test_membership_game.py``, whose controls show that it notices leaks,
with more rows: the bound on the advantage shrinks with the root of their number.
"""

import sys
import tempfile
from pathlib import Path

from rows import Row, limited, say
from veilsum.testing import membership

BOUND = 0.01
RUNS, QUICK_RUNS, ROWS = 16, 1, 20_000  # runs of so many rows of the attacker's own
TESTS = Path(__file__).parents[1] / "tests"


def rows(*, quick: bool) -> list[Row]:
    """Play the game in every mode that hides; the bound holds for the whole size only."""
    sys.path.append(str(TESTS))
    from protocols.test_membership_game import members_game, signers_game

    runs = QUICK_RUNS if quick else RUNS
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("hidden_one, the signer", "hidden_union, both members"):
            say(f"membership game, {mode}, {runs} runs of {ROWS:,} rows …")
            if mode.startswith("hidden_one"):
                seen, matched = signers_game(Path(folder), runs, ROWS)
            else:
                seen, matched = members_game(Path(folder), max(1, runs // 2), ROWS, "ab")
            score = membership.play(seen, matched, seed=1)
            note = f"upper 95 % bound; measured {score.advantage:.4f} by {score.guesser}; small test keys"
            name = f"membership game, {mode}, {score.held_out:,} held-out rows"
            found.append(limited(name, "advantage", score.upper, None if quick else BOUND, note=note))
            del seen, matched
    return found
