"""Files that are whole or absent, and disk errors in words."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from veilsum.errors import StoreError


def full_or_broken(error: OSError, where: Path) -> StoreError:
    """Return the named error for what the operating system said about a file or folder."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(
            f"the disk under {where} is full",
            remedy="make room and give the same command again: the run goes on",
        )
    return StoreError(f"{where} cannot be used: {error.strerror or error}", remedy="see `veilsum doctor`")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that after a crash it is there whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise full_or_broken(error, path) from error


class Scratch(NamedTuple):
    """Room for intermediate results of one run: a private folder, and how much memory may be used instead."""

    folder: Path
    budget: int
    """bytes"""
