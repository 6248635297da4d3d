"""The embedded engine: `gemstead serve` itself starts it, from the file; here are the settings to put over the file."""

from __future__ import annotations

from gemstead.engines.flag import Command, Flag
from gemstead.plan.placement import Placement

FILE = "docs/reference/gemstead-yaml.md"


def command(placement: Placement) -> Command:
    """How Gemstead is started with the embedded engine for a placement."""
    setup = placement.setup
    settings = {
        "name": (setup.model.name, "the model"),
        "context": (str(setup.length), "the longest prompt with its answer"),
        "slots": (str(setup.at_once), "requests at once"),
        "thinking": (str(placement.thinking).lower(), "whether it thinks when a request does not say"),
    }
    flags = [
        Flag("--set", f"models[0].{name}={value}", reason, FILE) for name, (value, reason) in settings.items()
    ]
    return Command("embedded", setup.version, ("gemstead", "serve"), tuple(flags))
