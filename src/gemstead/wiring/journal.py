"""The logs of a service: one rotated file for each engine and worker, and one for the service's own words."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gemstead.spec.model import Spec
from gemstead.supervise.logs import RotatedLog
from gemstead.wiring.files import StateDir


def log_file(
    spec: Spec, folder: StateDir, name: str, seen: Callable[[str], None] | None = None
) -> RotatedLog:
    """The rotated log of an engine or worker."""
    most = spec.supervise.log_mib * 1024 * 1024
    return RotatedLog(folder.logs / f"{name}.log", most_bytes=most, files=spec.supervise.log_files, seen=seen)


class _ToLog(logging.Handler):
    """Our own words, into a rotated file."""

    def __init__(self, file: RotatedLog) -> None:
        super().__init__()
        self.file = file
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(self.format(record).encode("utf-8", "replace") + b"\n")


def keep_log(spec: Spec, folder: StateDir) -> None:
    """From now on, what Gemstead and its libraries log goes to `service.log`."""
    handler = _ToLog(log_file(spec, folder, "service"))
    for name in ("gemstead", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("gemstead").setLevel(logging.INFO)
