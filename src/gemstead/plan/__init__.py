"""What will run: memory, speed, layout, capacity, money. `from gemstead.plan import plan` asks for all of it at once.

`deploy.py` is the other door: from the one file to the engine processes of this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemstead.plan.api import Option, Proposal, plan
    from gemstead.plan.placement import Media

__all__ = ["Media", "Option", "Proposal", "plan"]

_WHERE = {"plan": "api", "Proposal": "api", "Option": "api", "Media": "placement"}


def __getattr__(name: str) -> Any:
    """The names above, imported when they are asked for: starting a service needs none of them."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"gemstead.plan.{_WHERE[name]}"), name)
