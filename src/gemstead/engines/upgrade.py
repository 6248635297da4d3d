"""What changes between two versions of an engine, and the steps from one to the other without downtime.

From the flag lists: which options and variables are gone, which are new. From the ledger of known-bad combinations:
what the newer version mends, and what it brings. Nothing is installed or restarted here; `steps` are for a person, and
each can be undone until the last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gemstead.catalog import versions
from gemstead.catalog.engine_versions import engine_facts
from gemstead.catalog.known_bad import KnownBad, ledger
from gemstead.engines.flaglist import FILES, flag_list
from gemstead.engines.recipe import known_good, serious


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One engine, from the version that is installed to another."""

    engine: str
    title: str
    installed: str
    target: str
    gone: tuple[str, ...] = ()  # options and variables that the target no longer knows
    new: tuple[str, ...] = ()
    mended: tuple[KnownBad, ...] = ()  # met by the installed version only
    brought: tuple[KnownBad, ...] = ()  # met by the target only
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return versions.parsed(self.installed) != versions.parsed(self.target)

    def as_dict(self) -> dict[str, object]:
        """As `--json` prints it."""
        return {**asdict(self), "needed": self.needed}


def upgrade(engine: str, installed: str, *, variant: str = "", target: str = "") -> Upgrade:
    """The plan from the installed version to `target`, or to the newest that is known to be good."""
    title = engine_facts(engine).title
    goal = target or known_good(engine, variant)
    if not target and _number(installed) >= _number(goal):
        ahead = _number(installed) > _number(goal)
        note = (
            f"newer than {goal}, the newest that the catalogue knows to be good"
            if ahead
            else "the newest known good"
        )
        return Upgrade(
            engine,
            title,
            installed,
            installed,
            notes=(f"{installed} is {note}", *_serious(engine, installed)),
        )
    before, after = _faults(engine, installed), _faults(engine, goal)
    gone, new, notes = _flags(engine, installed, goal)
    return Upgrade(
        engine,
        title,
        installed,
        goal,
        gone,
        new,
        mended=tuple(entry for id_, entry in before.items() if id_ not in after),
        brought=tuple(entry for id_, entry in after.items() if id_ not in before),
        steps=_steps(engine, installed, goal),
        notes=(*notes, *_serious(engine, goal)),
    )


def _flags(
    engine: str, installed: str, target: str
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    if engine not in FILES:
        return (), (), (f"no flag list of {engine} was read, so its flags cannot be compared",)
    old, new = flag_list(engine, installed), flag_list(engine, target)
    notes = tuple(
        f"the flags of {known.asked} were not read; those of {known.read} stand for them"
        for known in (old, new)
        if not known.exact
    )
    if not old.history:
        notes += (f"only one version's flags of {engine} were read, so what changed is not known",)
    return tuple(sorted(old.known - new.known)), tuple(sorted(new.known - old.known)), notes


def _faults(engine: str, version: str) -> dict[str, KnownBad]:
    """Entries that name versions, this one among them; whatever they ask of a launch beside it."""
    return {
        entry.id: entry
        for entry in ledger()
        if entry.engine == engine and entry.versions and versions.within(version, entry.versions)
    }


def _serious(engine: str, version: str) -> tuple[str, ...]:
    return tuple(f"known against {version}: {entry}" for entry in serious(engine, version))


def _steps(engine: str, installed: str, target: str) -> tuple[str, ...]:
    return (
        f"gemstead engines install {engine}=={target}      # beside the old one; nothing that runs changes",
        f"gemstead plan --engine {engine}                  # its launch line is held against the new version's flags",
        f"in gemstead.yaml: `engine: {engine}` with `engine_version: {target}`",
        "gemstead validate && gemstead reload              # replicas change one at a time; running calls end first",
        "gemstead check                                    # a dozen real requests; the old version is the way back",
        f"gemstead engines rm {engine}=={installed}        # when the new one has proven itself",
    )


def _number(version: str) -> tuple[int, ...]:
    return versions.parsed(version) or ()
