"""Where the bytes lie: `files/ID` for files, `results/BATCH.log` for answers that are not in a file yet.

For the owner only (folders 0700, files 0600). A file is written under another name, synced, and renamed, so under its
own name it is always whole; it counts once its row is in batches.db. What has no row, and logs of batches that have
ended, are removed by `tidy` at the start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PART = ".part"


class Folder:
    """The folder of all files and results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files, self._results = path / "files", path / "results"
        for folder in (path, self._files, self._results):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def rows(self) -> Path:
        return self.path / "batches.db"

    def file(self, file_id: str) -> Path:
        return self._files / file_id

    def log(self, batch_id: str) -> Path:
        return self._results / f"{batch_id}.log"

    def write(self, file_id: str, pieces: Iterable[bytes]) -> int:
        """Keep these bytes as that file, synced; its size in bytes.

        Raises:
            OSError: they cannot be written; nothing is left of them.
        """
        draft = Draft(self, file_id)
        try:
            for piece in pieces:
                draft.write(piece)
            draft.keep()
        except BaseException:
            draft.drop()
            raise
        return draft.size_bytes

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def tidy(self, file_ids: set[str], batch_ids: set[str]) -> None:
        """Remove what belongs to no file of these and no batch that goes on."""
        for path in self._files.iterdir():
            if path.name not in file_ids:
                path.unlink(missing_ok=True)
        for path in self._results.iterdir():
            if path.stem not in batch_ids:
                path.unlink(missing_ok=True)


class Draft:
    """A file that is being written. End it with `keep` or `drop`."""

    def __init__(self, folder: Folder, file_id: str) -> None:
        self.size_bytes = 0
        self._final = folder.file(file_id)
        self._path = self._final.with_name(file_id + PART)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            done = os.write(self._fd, view)
            self.size_bytes += done
            view = view[done:]

    def keep(self) -> None:
        """Sync, and give the file its name."""
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._path.rename(self._final)
        sync_folder(self._final.parent)

    def drop(self) -> None:
        """Leave nothing of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """A new name is only on disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
