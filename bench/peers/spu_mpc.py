"""One party of SPU's ABY3, a process over brpc without TLS: ``spu_mpc.py RANK ADDRESS,ADDRESS,ADDRESS``.

64-bit ring, 18 bits behind the point, everything else as SPU sets it by itself. Rank 0 deals shares of the
inputs; then all run the compiled program: once with SPU's own count of bytes, once to warm up, and so often
for the clock, which runs around the call alone, from a barrier on. The orders are those of ``mpc_party.py``.
"""

import json
import os
import re
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import jax  # type: ignore[import-not-found]  # it is in its own environment only
import jax.numpy as jnp  # type: ignore[import-not-found]  # as jax
import numpy as np
import spu  # type: ignore[import-not-found]  # it is in its own environment only
from jax import lax
from spu import libspu
from spu.utils import frontend  # type: ignore[import-not-found]  # it is in its own environment only

from mpc_inputs import BATCH, RATE, digest, inputs


def logistic(x: jax.Array, y: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the weights after an epoch of SGD on the binary cross-entropy."""
    for at in range(0, x.shape[0], BATCH):
        rows, target = x[at : at + BATCH], y[at : at + BATCH]
        error = (jax.nn.sigmoid(rows @ w.T + b) - target) * (RATE / BATCH)
        w, b = w - error.T @ rows, b - error.sum(0)
    return w, b


def mlp(x: jax.Array, **w: jax.Array) -> jax.Array:
    """Return the logits of the perceptron."""
    for layer in (1, 2):
        x = jax.nn.relu(x @ w[f"w{layer}"].T + w[f"b{layer}"])
    return x @ w["w3"].T + w["b3"]


def mlp_training(x: jax.Array, y: jax.Array, **w: jax.Array) -> list[jax.Array]:
    """Return the weights after an epoch of SGD on the cross-entropy of a softmax.

    The derivatives stand here by hand: SPU sends 8 % less than with those that jax finds.
    """
    for at in range(0, x.shape[0], BATCH):
        rows = x[at : at + BATCH]
        first = jax.nn.relu(rows @ w["w1"].T + w["b1"])
        second = jax.nn.relu(first @ w["w2"].T + w["b2"])
        slope3 = (jax.nn.softmax(second @ w["w3"].T + w["b3"]) - y[at : at + BATCH]) * (RATE / BATCH)
        slope2 = (slope3 @ w["w3"]) * (second > 0)
        slope1 = (slope2 @ w["w2"]) * (first > 0)
        w = {
            "w1": w["w1"] - slope1.T @ rows,
            "w2": w["w2"] - slope2.T @ first,
            "w3": w["w3"] - slope3.T @ second,
            "b1": w["b1"] - slope1.sum(0),
            "b2": w["b2"] - slope2.sum(0),
            "b3": w["b3"] - slope3.sum(0),
        }
    return [w[f"{kind}{layer}"] for layer in (1, 2, 3) for kind in "wb"]


def lenet(x: jax.Array, **w: jax.Array) -> jax.Array:
    """Return the logits of the LeNet-like network, channels last, as SPU is faster."""
    x, last = x.transpose(0, 2, 3, 1), ("NHWC", "OIHW", "NHWC")
    for name, pad in (("c1", 2), ("c2", 0)):
        x = lax.conv_general_dilated(x, w[f"w{name}"], (1, 1), [(pad, pad)] * 2, dimension_numbers=last)
        x = jax.nn.relu(x + w[f"b{name}"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    for name in ("f1", "f2"):
        x = jax.nn.relu(x @ w[f"w{name}"].T + w[f"b{name}"])
    return x @ w["wf3"].T + w["bf3"]


PROGRAMS: dict[str, Callable[..., object]] = {
    "products": lambda x, y: x * y,
    "matmul": lambda x, y: x @ y,
    "relu": jax.nn.relu,
    "logistic": logistic,
    "mlp-inference": mlp,
    "mlp-training": mlp_training,
    "lenet": lenet,
}


class Party:
    """One rank."""

    def __init__(self, rank: int, addresses: list[str]) -> None:
        desc = libspu.link.Desc()
        desc.recv_timeout_ms = 600_000
        for number, address in enumerate(addresses):
            desc.add_party(f"party{number}", address)
        self._rank = rank
        self._link = libspu.link.create_brpc(desc, rank)

    def prepare(self, work: str, sizes: dict[str, int]) -> dict[str, object]:
        """Deal the inputs of a work, count what a run says and check it; one more run warms up."""
        arrays = {name: value.astype(np.float32) for name, value in inputs(work, **sizes).items()}
        self._executable, _ = frontend.compile(
            frontend.Kind.JAX,
            PROGRAMS[work],
            (),
            arrays,
            sorted(arrays),  # the order in which jax flattens a mapping
            [libspu.Visibility.VIS_SECRET] * len(arrays),
            lambda flat: [f"out{at}" for at in range(len(flat))],
        )
        self._shares = {name: self._dealt(value) for name, value in sorted(arrays.items())}
        runtime = self._runtime(profiled=True)
        told = _told(lambda: runtime.run(self._executable))
        self.go()
        opened = [self._opened(runtime.get_var(name)) for name in self._executable.output_names]
        sent = re.search(r"total send bytes (\d+)", told)
        return {
            "sent": int(sent[1]) if sent else None,
            "digest": digest(arrays, opened),
        }

    def go(self) -> dict[str, float]:
        """Run the program that was prepared, from when all parties are there."""
        runtime = self._runtime()
        self._link.barrier()
        used, began = _cpu(), time.perf_counter()
        runtime.run(self._executable)
        return {"wall": time.perf_counter() - began, "cpu": _cpu() - used}

    def _runtime(self, *, profiled: bool = False) -> spu.Runtime:
        runtime = spu.Runtime(self._link, _settings(profiled=profiled))
        for name, share in self._shares.items():
            runtime.set_var(name, share)
        return runtime

    def _dealt(self, value: np.ndarray) -> libspu.Share:
        """Return this rank's share of what rank 0 deals."""
        if self._rank != 0:
            return _unpack(self._link.recv(0))
        mine, *others = _io().make_shares(value, libspu.Visibility.VIS_SECRET)
        for rank, share in enumerate(others, start=1):
            self._link.send(rank, _pack(share))
        return mine

    def _opened(self, share: libspu.Share) -> np.ndarray:
        for rank in range(3):
            if rank != self._rank:
                self._link.send_async(rank, _pack(share))
        shares = [share if rank == self._rank else _unpack(self._link.recv(rank)) for rank in range(3)]
        opened: np.ndarray = _io().reconstruct(shares)
        return opened


def _settings(*, profiled: bool = False) -> libspu.RuntimeConfig:
    settings = libspu.RuntimeConfig(
        protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64, fxp_fraction_bits=18
    )
    settings.enable_pphlo_profile = profiled
    return settings


def _io() -> spu.Io:
    return spu.Io(3, _settings())


def _pack(share: libspu.Share) -> bytes:
    (chunk,) = share.share_chunks
    packed: bytes = struct.pack("<I", len(share.meta)) + share.meta + chunk
    return packed


def _unpack(data: bytes) -> libspu.Share:
    (size,) = struct.unpack_from("<I", data)
    share = libspu.Share()
    share.meta, share.share_chunks = data[4 : 4 + size], [data[4 + size :]]
    return share


def _told(call: Callable[[], object]) -> str:
    """Return what a call prints below Python."""
    with tempfile.TemporaryFile("w+") as kept:
        before = os.dup(1), os.dup(2)
        os.dup2(kept.fileno(), 1)
        os.dup2(kept.fileno(), 2)
        try:
            call()
        finally:
            for number, old in enumerate(before, start=1):
                os.dup2(old, number)
                os.close(old)
        kept.seek(0)
        return kept.read()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Answer orders, one JSON object a line, until the input ends."""
    rank, addresses = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # SPU writes its log there
    party = Party(int(rank), addresses.split(","))
    orders: dict[str, Callable[..., Mapping[str, object]]] = {"prepare": party.prepare, "go": party.go}
    print(json.dumps({"ready": list(PROGRAMS)}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(orders[order.pop("order")](**order)), file=answers, flush=True)


if __name__ == "__main__":
    main()
