"""A file or a folder of this machine as a source: the files are copied into the store and summed up on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from gemstead.catalog.sources import Want
from gemstead.operate.store.source import BLOCK_BYTES, Found, Listing
from gemstead.operate.store.trouble import StoreTrouble


class LocalSource:
    """One file, or all files below a folder but the hidden ones."""

    def __init__(self, want: Want) -> None:
        self.root = Path(want.address.place).expanduser().absolute()

    def listing(self) -> Listing:
        if not self.root.exists():
            raise StoreTrouble("missing", f"there is no file or folder {self.root}")
        files = []
        for path in [self.root] if self.root.is_file() else _files(self.root):
            seen = path.stat()
            name = path.name if self.root.is_file() else path.relative_to(self.root).as_posix()
            identity = hashlib.sha256(f"{path} {seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()
            files.append(Found(name, seen.st_size, identity=identity))
        files.sort(key=lambda file: file.path)
        lines = "".join(f"{file.path} {file.bytes} {file.identity}\n" for file in files)
        return Listing(hashlib.sha256(lines.encode()).hexdigest()[:40], tuple(files))

    def read(self, file: Found, begin: int, end: int) -> Iterator[bytes]:
        path = self.root if self.root.is_file() else self.root / file.path
        with path.open("rb") as stream:
            stream.seek(begin)
            while begin < end and (data := stream.read(min(BLOCK_BYTES, end - begin))):
                begin += len(data)
                yield data


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path
