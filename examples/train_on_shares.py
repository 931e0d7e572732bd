"""Train a small network on rows of two hospitals that show them to nobody, in one process.

Between machines the same happens by `veilsum run`: see the page on secure learning.
"""

import numpy as np
from numpy.typing import NDArray

import veilsum
from veilsum.mpc.optimisers import Sgd
from veilsum.mpc.training import Training


def patients(count: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return columns of made-up patients: the risk grows with age and pressure, and is higher for smokers."""
    rng = np.random.default_rng(seed)
    age, pressure, smokes = rng.uniform(20, 90, count), rng.normal(130, 15, count), rng.integers(0, 2, count)
    risk = (age - 55) / 12 + (pressure - 130) / 20 + 1.5 * smokes - 0.7
    ill = (risk + rng.logistic(size=count) > 0).astype(float)
    return {"age": age, "pressure": pressure, "smokes": smokes.astype(float), "ill": ill}


if __name__ == "__main__":
    got = veilsum.train(
        {"north": patients(900, 1), "south": patients(600, 2)},
        features={"age": (0, 120), "pressure": (50, 250), "smokes": (0, 1)},
        target="ill",
        training=Training(epochs=8, batch=64, optimiser=Sgd(rate=0.05, momentum=0.9)),
    )
    for epoch, (loss, right) in enumerate(got.metrics, 1):
        print(f"epoch {epoch}: loss {loss:.3f}, right {right:.1%}")
    print("truth by answer, held-out rows:", got.confusion.tolist())
    said = got.traffic
    print(f"a computing party sent {said.sent / 1e6:.1f} MB in {said.rounds:,} rounds")
