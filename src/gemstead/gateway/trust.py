"""Mutual TLS towards engines: whom the gateway trusts there, and by which certificate it says who it is.

Certificates are short-lived: cert-manager writes new ones into the same files, long before the old ones end. So the
files are looked at whenever a connection is opened, and read when one of them has changed. A file that is being
replaced may not fit its key for a moment: what worked before is used until they fit again.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from gemstead.traffic.told import EngineTls


class Trust:
    """The TLS context for engines with these files, always as the files are now."""

    def __init__(self, files: EngineTls) -> None:
        self.files = files
        self._seen: tuple[tuple[int, int], ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection is opened with; another object after the files have changed.

        Raises:
            OSError: the files cannot be read, or do not fit each other, and never have.
        """
        try:
            seen = tuple(
                _stamp(path) for path in (self.files.ca, self.files.certificate, self.files.key) if path
            )
            if self._context is None or seen != self._seen:
                self._context, self._seen = made(self.files), seen
        except OSError as error:  # ssl.SSLError is one
            if self._context is None:
                raise OSError(f"TLS to the engine ({', '.join(_named(self.files))}): {error}") from error
        return self._context


def made(files: EngineTls) -> ssl.SSLContext:
    """A context that trusts `ca` alone (without one: who the system trusts) and shows the certificate, if any.

    Raises:
        OSError: a file cannot be read, or the certificate is not the key's.
    """
    context = ssl.create_default_context(cafile=files.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.certificate:
        context.load_cert_chain(files.certificate, files.key, password=_unsaid)
    return context


def _unsaid() -> str:
    """A key that is encrypted is an error; without this OpenSSL would ask at the terminal."""
    return ""


def _named(files: EngineTls) -> list[str]:
    return [path for path in (files.ca, files.certificate, files.key) if path]


def _stamp(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_ino
