"""Packages that only some settings need: looked for before anything starts.

A worker that cannot import what its settings need would end, be replaced, and end again.
"""

from __future__ import annotations

from importlib.util import find_spec

from gemstead.wiring.secrets import CannotRun


def need(modules: tuple[str, ...], extra: str, where: str) -> None:
    """Nothing, when they are installed.

    Raises:
        CannotRun: one is not; the sentence names the setting and what to install.
    """
    for name in modules:
        if find_spec(name) is None:
            raise CannotRun(
                f"{where} needs the package {name}, which is not installed: pip install 'gemstead[{extra}]'"
            )
