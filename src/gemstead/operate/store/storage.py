"""On what kind of storage a folder lies, as far as the kernel says it."""

from __future__ import annotations

from pathlib import Path

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "9p", "gpfs", "beegfs", "afs"}
_MEMORY = {"tmpfs", "ramfs"}


def kind_of(folder: Path, root: Path = Path("/")) -> str:
    """`memory`, `network`, `fuse` or `local`; `local` when nothing is known. `root` stands for the file system's root
    in tests."""
    best, kind = "", "local"
    where = str(folder.absolute())
    try:
        lines = (root / "proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return kind
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, system = before.split(), after.split()[:1]
        if len(fields) < 5 or not system:
            continue
        mount = fields[4].replace("\\040", " ")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, _kind(system[0])
    return kind


def _kind(system: str) -> str:
    if system in _NETWORK:
        return "network"
    if system in _MEMORY:
        return "memory"
    return "fuse" if system.startswith("fuse") and system != "fuseblk" else "local"
