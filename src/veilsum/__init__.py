"""veilsum: organisations compute together on data that none of them shows."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veilsum.learn.from_onnx import from_onnx
    from veilsum.learn.from_torch import from_torch
    from veilsum.node.facade import Aligned, align
    from veilsum.node.train import Trained, train

__version__ = "0.1.0"
__all__ = ["Aligned", "Trained", "__version__", "align", "from_onnx", "from_torch", "train"]

_HOMES = {
    "Aligned": "veilsum.node.facade",
    "Trained": "veilsum.node.train",
    "align": "veilsum.node.facade",
    "from_onnx": "veilsum.learn.from_onnx",
    "from_torch": "veilsum.learn.from_torch",
    "train": "veilsum.node.train",
}


def __getattr__(name: str) -> Any:
    """Hand public names on when they are first asked for (PEP 562), so that importing stays cheap."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'veilsum' has no attribute {name!r}")
