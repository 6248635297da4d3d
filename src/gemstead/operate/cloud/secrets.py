"""Secret Manager: texts that services read, and the records of what was carried out.

Secrets themselves are made by the bundle's `setup.sh`; here only versions are added, which needs no right to make,
read or remove any other secret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from gemstead.operate.apply.carry import kept
from gemstead.operate.apply.history import in_order, packed, unpacked
from gemstead.operate.apply.piece import PlaceError, Record
from gemstead.operate.cloud.google import Google, Missing

MOST_BYTES = 64 << 10  # of one version


class Secrets:
    """The secrets of one project."""

    def __init__(self, google: Google, project: str) -> None:
        self._google, self._project = google, project

    def read(self, name: str) -> str | None:
        """The latest version; None when there is none."""
        path = f"/v1/projects/{self._project}/secrets/{name}/versions/latest:access"
        try:
            answer = self._google.ask("secretmanager", "", "GET", path)
        except Missing:
            return None
        try:
            return base64.b64decode(answer["payload"]["data"]).decode()
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError) as error:
            raise PlaceError(f"secret {name} holds no text") from error

    def write(self, name: str, text: str) -> None:
        """Add a version, where the latest says something else.

        Raises:
            PlaceError: there is no such secret, or it may not be written.
        """
        if self.read(name) == text:
            return
        body = {"payload": {"data": base64.b64encode(text.encode()).decode()}}
        path = f"/v1/projects/{self._project}/secrets/{name}:addVersion"
        try:
            self._google.ask("secretmanager", "", "POST", path, body)
        except Missing as error:
            raise PlaceError(
                f"there is no secret {name} in {self._project}: run the bundle's setup.sh first"
            ) from error

    def history(self, name: str) -> tuple[Record, ...]:
        """The records in this secret, oldest first."""
        return in_order([unpacked(line) for line in (self.read(name) or "").splitlines()])

    def remember(self, name: str, record: Record) -> None:
        """Keep the record there, with as many earlier ones as one version holds."""
        lines = [packed(one) for one in kept(self.history(name), record)]
        while len(lines) > 1 and sum(map(len, lines)) + len(lines) > MOST_BYTES:
            del lines[0]
        self.write(name, "\n".join(lines) + "\n")


def differing(there: object, wanted: object) -> object:
    """What is there, cut down to the fields that are wanted: an API adds defaults that nobody said."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        return {name: differing(there[name], one) for name, one in wanted.items() if name in there}
    if isinstance(wanted, Sequence) and not isinstance(wanted, str) and isinstance(there, list):
        known = [differing(a, b) for a, b in zip(there, wanted, strict=False)]
        return known + there[len(wanted) :]
    return there
