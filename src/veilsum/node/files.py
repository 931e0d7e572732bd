"""Make what only its owner reads, and what must never be overwritten."""

import secrets
from pathlib import Path

from veilsum.errors import ConfigError
from veilsum.store.files import full_or_broken, sync_folder, write_whole


def private_folder(folder: Path) -> Path:
    """Make a folder of mode 0700 with its parents, and return it.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise full_or_broken(error, folder) from error
    return folder


def create_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not be there yet, whole or not at all.

    Raises:
        ConfigError: the file is there already.
        StoreError: the disk refused it.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_whole(scratch, content, mode=mode)
        path.hardlink_to(scratch)  # the one way to give a name that fails when the name is taken
        sync_folder(path.parent)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already and is not overwritten",
            remedy="move it away first if you really mean to replace it",
        ) from error
    except OSError as error:
        raise full_or_broken(error, path) from error
    finally:
        scratch.unlink(missing_ok=True)
