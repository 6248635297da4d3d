"""Machine types of clouds: which carry an accelerator, and how many of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from gemstead.catalog import data


@dataclass(frozen=True, slots=True)
class CloudMachine:
    """One type of machine that a cloud rents out."""

    cloud: str  # gcp, cloud-run, aws, azure
    name: str  # as the cloud writes it
    accelerator: str  # id
    count: int  # accelerators in it
    note: str = ""


@cache
def machines() -> tuple[CloudMachine, ...]:
    """Every machine type that is known."""
    return tuple(
        CloudMachine(row["cloud"], name, row["accelerator"], count, row.get("note", ""))
        for row in data.read("machines")["machines"]
        for name, count in row["names"].items()
    )


def carrying(accelerator: str) -> tuple[CloudMachine, ...]:
    """The machines that carry an accelerator (by id), in the order of the file."""
    return tuple(one for one in machines() if one.accelerator == accelerator)


def machine(name: str) -> CloudMachine | None:
    """The machine type of a name, with or without Azure's `Standard_`; None when it is not known."""
    said = name.strip().casefold().removeprefix("standard_")
    return next((one for one in machines() if one.name.casefold().removeprefix("standard_") == said), None)
