"""veilsum: organisations compute together on data that none of them shows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from veilsum.node.facade import Aligned, align

__version__ = "0.1.0"
__all__ = ["Aligned", "__version__", "align"]


def __getattr__(name: str) -> Any:
    """Hand public names on when they are first asked for (PEP 562), so that importing stays cheap."""
    if name in {"align", "Aligned"}:
        from veilsum.node import facade

        return getattr(facade, name)
    raise AttributeError(f"module 'veilsum' has no attribute {name!r}")
