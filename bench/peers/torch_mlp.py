"""The works of ``mpc.py`` by PyTorch on values in clear, one process with the orders of ``mpc_party.py``.

``digits`` trains on scikit-learn's digits and writes what another needs to do the same: data, initial weights
and the order of rows.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch  # type: ignore[import-not-found]  # it is in its own environment only
from sklearn.datasets import load_digits  # type: ignore[import-not-found]  # it is in its own environment only
from torch.nn import functional  # type: ignore[import-not-found]  # it is in its own environment only

from mpc_inputs import BATCH, RATE, digest, inputs, mlp_weights

Tensors = dict[str, torch.Tensor]


def mlp(x: torch.Tensor, w: Tensors) -> torch.Tensor:
    """Return the logits of the perceptron."""
    for layer in (1, 2):
        x = functional.relu(functional.linear(x, w[f"w{layer}"], w[f"b{layer}"]))
    return functional.linear(x, w["w3"], w["b3"])


def lenet(x: torch.Tensor, w: Tensors) -> torch.Tensor:
    """Return the logits of the LeNet-like network."""
    for name, pad in (("c1", 2), ("c2", 0)):
        x = functional.relu(functional.conv2d(x, w[f"w{name}"], w[f"b{name}"], padding=pad))
        x = functional.max_pool2d(x, 2)
    x = x.flatten(1)
    for name in ("f1", "f2"):
        x = functional.relu(functional.linear(x, w[f"w{name}"], w[f"b{name}"]))
    return functional.linear(x, w["wf3"], w["bf3"])


def step(w: Tensors, loss: torch.Tensor, rate: float = RATE) -> Tensors:
    """Return the weights after one step of SGD."""
    slopes = torch.autograd.grad(loss, list(w.values()))
    return {
        name: (value - rate * slope).detach().requires_grad_()
        for (name, value), slope in zip(w.items(), slopes, strict=True)
    }


def logistic(x: torch.Tensor, y: torch.Tensor, **w: torch.Tensor) -> list[torch.Tensor]:
    """Return the weights after an epoch."""
    for at in range(0, len(x), BATCH):
        logits = functional.linear(x[at : at + BATCH], w["w"], w["b"])
        w = step(w, functional.binary_cross_entropy_with_logits(logits, y[at : at + BATCH]))
    return list(w.values())


def mlp_training(x: torch.Tensor, y: torch.Tensor, **w: torch.Tensor) -> list[torch.Tensor]:
    """Return the weights after an epoch."""
    for at in range(0, len(x), BATCH):
        w = step(w, functional.cross_entropy(mlp(x[at : at + BATCH], w), y[at : at + BATCH]))
    return list(w.values())


PROGRAMS: dict[str, Callable[..., list[torch.Tensor]]] = {
    "products": lambda x, y: [x * y],
    "matmul": lambda x, y: [x @ y],
    "relu": lambda x: [functional.relu(x)],
    "relu-narrow": lambda x: [functional.relu(x)],
    "logistic": logistic,
    "mlp-inference": torch.no_grad()(lambda x, **w: [mlp(x, w)]),
    "mlp-training": mlp_training,
    "lenet": torch.no_grad()(lambda x, **w: [lenet(x, w)]),
}


class Clear:
    """The one party that sees everything."""

    def prepare(self, work: str, sizes: dict[str, int]) -> dict[str, object]:
        """Take the inputs of a work and run it once."""
        arrays = inputs(work, **sizes)
        self._given = {
            name: torch.from_numpy(value).float().requires_grad_(name not in {"x", "y"})
            for name, value in arrays.items()
        }
        self._program = PROGRAMS[work]
        results = [one.detach().numpy() for one in self._program(**self._given)]
        return {"sent": 0, "digest": digest(arrays, results)}

    def go(self) -> dict[str, float]:
        """Run the work that was prepared."""
        used, began = _cpu(), time.perf_counter()
        self._program(**self._given)
        return {"wall": time.perf_counter() - began, "cpu": _cpu() - used}

    def digits(
        self, file: str, widths: list[int], seed: int, epochs: int, batch: int, rate: float
    ) -> dict[str, object]:
        """Train on three quarters of the digits; count the right answers on the rest."""
        rng = np.random.default_rng(seed)
        pixels, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(pixels))
        x, labels = (pixels / 16)[order], labels[order]
        cut = len(x) * 3 // 4
        steps = [
            rows[at : at + batch]
            for rows in (rng.permutation(cut) for _ in range(epochs))
            for at in range(0, cut - batch + 1, batch)
        ]
        arrays = mlp_weights(rng, tuple(widths))
        w = {name: torch.from_numpy(value).float().requires_grad_() for name, value in arrays.items()}
        one_hot = np.eye(widths[-1])[labels]
        arrays |= {"x": x[:cut], "y": one_hot[:cut], "tests": x[cut:]}
        arrays |= {"truth": labels[cut:], "order": np.array(steps)}
        np.savez(file, allow_pickle=False, **arrays)
        rows, targets = torch.from_numpy(x).float(), torch.from_numpy(one_hot).float()
        for chosen in steps:
            w = step(w, functional.cross_entropy(mlp(rows[chosen], w), targets[chosen]), rate)
        found = mlp(rows[cut:], w).argmax(1).numpy()
        return {"right": int((found == labels[cut:]).sum()), "tests": len(x) - cut}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Answer orders, one JSON object a line, until the input ends."""
    clear = Clear()
    orders: dict[str, Callable[..., Mapping[str, object]]] = {
        "prepare": clear.prepare,
        "go": clear.go,
        "digits": clear.digits,
    }
    print(json.dumps({"ready": list(PROGRAMS)}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(orders[order.pop("order")](**order)), flush=True)


if __name__ == "__main__":
    main()
