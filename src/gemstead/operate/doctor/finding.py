"""What the doctor says: one thing that was looked at, and what to do when it is not well."""

from __future__ import annotations

from dataclasses import asdict, dataclass

LEVELS = ("problem", "warning", "unknown", "note", "ok")  # worst first


@dataclass(frozen=True, slots=True)
class Finding:
    """`problem`: it will not work; `warning`: it will work badly or not for long; `unknown`: it could not be seen."""

    topic: str  # "gpu", "driver", "disk", ...
    level: str
    cause: str  # what is the matter, or what is well
    evidence: str  # what was seen that says so
    remedy: str = ""  # what to do; empty when nothing is to be done

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


def worst(findings: list[Finding]) -> str:
    """The worst level there is; `ok` of none."""
    return min((finding.level for finding in findings), key=LEVELS.index, default="ok")
