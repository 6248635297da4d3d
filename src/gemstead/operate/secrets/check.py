"""Whether every secret that a file refers to can be read, from where it says. No value leaves this module."""

from __future__ import annotations

from typing import Any

from gemstead.operate.secrets.keeper import Keeper
from gemstead.operate.secrets.reference import NoSecret
from gemstead.spec.model import Spec
from gemstead.spec.secrets import references


def checked(spec: Spec, keeper: Keeper) -> list[dict[str, Any]]:
    """For each reference: its `field`, the `reference`, whether it is `ok`, and what was `said`."""
    rows = []
    for where, reference in references(spec):
        ok, said = True, "can be read"
        try:
            keeper.get(reference)
        except NoSecret as error:
            ok, said = False, str(error)
        rows.append({"field": where, "reference": reference, "ok": ok, "said": said})
    return rows
