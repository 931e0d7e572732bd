"""PyTorch modules as graphs: traced by ``torch.export``, translated, and compared with the module.

The module is traced in training mode, so that dropout and batch normalisation stay what they are, with a
batch of free size. torch is imported only when it is needed.
"""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from veilsum.errors import ConfigError
from veilsum.learn import twin
from veilsum.learn.model import Model
from veilsum.learn.torch_reading import Reading, to_numpy
from veilsum.learn.torch_rules import CONSTANTS, RULES

_NOISY: Final = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


def from_torch(module: Any, example_inputs: Any, *, verify: bool = True) -> Model:
    """Translate a ``torch.nn.Module`` with its weights.

    Args:
        module: left as it is, whatever its mode.
        example_inputs: a tensor or a tuple of tensors, each with the batch first; integers are indices.
        verify: whether the result is run on the examples and compared with the module in inference mode.

    Returns:
        The model; its inputs are named like the arguments of ``forward``, its weights like the module's.

    Raises:
        ConfigError: torch is missing, the module cannot be traced, some of its operations cannot run on
            secret shares (all of them are named with their places), or the result computes something else.
        DataError: a weight is not finite.
    """
    torch = _torch()
    examples = _examples(torch, example_inputs)
    model = Reading(torch, _export(torch, module, examples), module, RULES, CONSTANTS).model()
    if verify:
        _verify(torch, module, examples, model)
    return model


def _torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's own imports have to say does not concern the user
        try:
            importlib.import_module("torch.export")
            return importlib.import_module("torch")
        except ImportError:
            raise ConfigError("torch is not installed", remedy="pip install veilsum[torch]") from None


def _examples(torch: Any, given: Any) -> tuple[Any, ...]:
    examples = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    if not examples or not all(isinstance(e, torch.Tensor) and e.ndim for e in examples):
        raise ConfigError(
            "the examples are no tensors with a batch", remedy="give a tensor, or a tuple of them"
        )
    if len({len(e) for e in examples}) > 1 or len(examples[0]) == 0:
        raise ConfigError("the examples differ in the size of their batch", remedy="give each the same rows")
    if any(e.dtype == torch.bool or e.is_complex() for e in examples):
        raise ConfigError("an example is boolean or complex", remedy="give reals, or indices as integers")
    # a batch of one would be taken for a fixed size
    return tuple(torch.cat([e, e]) if len(e) == 1 else e for e in examples)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [(logger, logger.level) for logger in map(logging.getLogger, _NOISY)]
    unread = io.StringIO()  # torch prints the program where it gave up
    with warnings.catch_warnings(), contextlib.redirect_stderr(unread):
        warnings.simplefilter("ignore")
        try:
            for logger, _ in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in loggers:
                logger.setLevel(level)


@contextlib.contextmanager
def _mode(module: Any, *, training: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.train(training)
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _export(torch: Any, module: Any, examples: tuple[Any, ...]) -> Any:
    batch = torch.export.Dim("batch")
    dims = tuple({0: batch} for _ in examples)
    with _quiet(), _mode(module, training=True):
        try:
            program = torch.export.export(module, examples, dynamic_shapes=dims, strict=False)
            return program.run_decompositions({})  # keeps the operations, without those in place
        except Exception as error:  # noqa: BLE001 - torch raises errors of a dozen unrelated classes
            cause, lines = str(error), [line.strip() for line in str(error).splitlines()]
    if "data-dependent" in cause:
        at = next((lines[i + 1] for i, line in enumerate(lines[:-1]) if line.startswith("File ")), "")
        raise ConfigError(
            f"the module decides by its data what to do, and data are secret{': ' if at else ''}{at}",
            remedy="replace `if` and loops over values of tensors by arithmetic",
        )
    if "Constraints violated" in cause or "constraint" in lines[0].lower():
        raise ConfigError(
            "the module works with some sizes of batch only: " + " ".join(lines[1:2]).lstrip("- "),
            remedy="put the batch first (batch_first=True), and use x.shape[0] or -1 instead of its size",
        )
    raise ConfigError(
        f"torch.export cannot trace the module: {lines[0] if lines else 'it says no more'}",
        remedy="run torch.export.export(module, examples) by itself; its message says where",
    )


def _verify(torch: Any, module: Any, examples: tuple[Any, ...], model: Model) -> None:
    with torch.no_grad(), _quiet(), _mode(module, training=False):
        told = torch.utils._pytree.tree_leaves(module(*examples))  # noqa: SLF001 - torch names it nowhere else
    arrays = dict(zip(model.graph.inputs, (to_numpy(torch, e) for e in examples), strict=True))
    eps = max((torch.finfo(t.dtype).eps for t in told if t.is_floating_point()), default=1e-7)
    for expected, found in zip((to_numpy(torch, t) for t in told), twin.forward(model, arrays), strict=True):
        size = 1 + float(np.abs(expected).max(initial=0))
        if expected.shape != found.shape or not np.abs(expected - found).max(initial=0) <= 1e4 * eps * size:
            raise ConfigError(
                "the module computes something else in inference mode than what was traced in training mode",
                remedy="let `forward` do the same whether or not the module is in training mode",
            )
