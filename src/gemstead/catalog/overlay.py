"""A user's own facts, laid over the catalogue: what you pay, cards and checkpoints of your own, what broke for you.

The text is one YAML file (docs/catalogue.md tells its form). It is checked whole before anything of it counts: every
fault is said with its line, and a file with a fault changes nothing. What it says wins over what is built in; an entry
with the id of a built-in one changes the fields that it names.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass, replace
from typing import Any

from gemstead.catalog import accelerators as cards
from gemstead.catalog import checkpoints as weights
from gemstead.catalog import known_bad as ledger
from gemstead.catalog import names, prices, versions
from gemstead.catalog.accelerators import Accelerator, Tflops
from gemstead.catalog.checkpoints import Checkpoint
from gemstead.catalog.engine_versions import EngineFacts, engines
from gemstead.catalog.form import Field, Form, amount, text
from gemstead.catalog.known_bad import KnownBad
from gemstead.catalog.prices import ApiPrice, Price, Purchase
from gemstead.refused import Refused
from gemstead.spec import document
from gemstead.spec.fault import Fault, Path, SpecError, in_order, located, nearest, shown

VERSION = 1
MOST_USD_HOUR = 200.0  # for one accelerator: more is the price of a machine, or a slip


@dataclass(frozen=True, slots=True)
class Overlay:
    """What a user's file says."""

    as_of: datetime.date
    source: str = "your own file"
    rents: tuple[Price, ...] = ()
    api: tuple[ApiPrice, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()  # whole: built-in ones with the changes made
    checkpoints: tuple[Checkpoint, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    known_bad: tuple[KnownBad, ...] = ()
    ignore: tuple[str, ...] = ()  # ids of the ledger that do not concern this user

    @property
    def counts(self) -> dict[str, int]:
        """How many entries of each kind it holds; kinds without any are left out."""
        kinds = ("rents", "api", "accelerators", "checkpoints", "engines", "known_bad", "ignore")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}


def parse(text: str, name: str = "catalogue.yaml") -> Overlay:
    """The overlay of a text.

    Args:
        text: the file's content.
        name: what it is called in faults.

    Raises:
        SpecError: with every fault, each with its line.
    """
    said = document.read(text, name)
    reader = _Reader()
    overlay = None
    if isinstance(said.value, dict):
        overlay = reader.overlay(said.value)
    elif not said.faults:
        reader.faults.append(
            Fault(
                (), "does not hold fields", f"begin it with `catalogue: {VERSION}`, then `as_of: 2026-11-20`"
            )
        )
    every = in_order([*said.faults, *(located(fault, said.places) for fault in reader.faults)])
    if every or overlay is None:
        raise SpecError(list(dict.fromkeys(every)))
    return overlay


_RENT = {
    "gpu": text(required=True),
    "usd_hour": amount(required=True, most=MOST_USD_HOUR),
    "who": text(),
    "kind": text(choices=prices.RENT_KINDS),
    "machine_usd_hour": amount(),
    "read": Field("day"),
    "source": text(),
    "note": text(),
}
_BUY = {
    "gpu": text(required=True),
    "usd": amount(required=True),
    "read": Field("day"),
    "source": text(),
}
_API = {
    "provider": text(required=True),
    "model": text(required=True),
    "in": amount(required=True),
    "out": amount(required=True),
    "cached": amount(),
    "read": Field("day"),
    "source": text(),
    "note": text(),
}
_TFLOPS = {name: amount() for name in ("bf16", "fp8", "int8", "fp4", "fp16")}
_ACCELERATOR = {
    "id": text(required=True),
    "like": text(),
    "name": text(),
    "vendor": text(choices=("nvidia", "amd", "google", "intel", "cpu")),
    "arch": text(),
    "sm": Field("whole", least=50, most=200),
    "memory_mib": Field("whole", least=1024, most=16 << 20),
    "bandwidth_gbs": amount(least=1),
    "bandwidth_seen_gbs": amount(least=1),
    "tflops": Field("section"),
    "tdp_w": amount(),
    "interconnect": text(choices=("nvlink", "pcie", "xgmi", "ici", "network", "none")),
    "interconnect_gbs": amount(),
    "interconnect_note": text(),
    "unified": Field("bool"),
    "mig": Field("counts", check=lambda said: _profiles(said)),
    "limits": Field("texts"),
    "aliases": Field("texts"),
    "source": text(),
}
_CHECKPOINT = {
    "repo": text(required=True),
    "like": text(),
    "model": text(),
    "format": text(),
    "bits": text(),
    "weights_gib": amount(least=0.01),
    "weights_from": text(choices=("log", "files", "computed")),
    "disk_gb": amount(),
    "file": text(),
    "projector_gib": amount(),
    "engines": Field("texts"),
    "quantization": text(),
    "least_sm": Field("whole"),
    "native_sm": Field("whole"),
    "vendors": Field("texts"),
    "kv_dtype": text(),
    "drafter": text(),
    "notes": Field("texts"),
    "source": text(),
}
_ENGINE = {
    "engine": text(required=True),
    "latest_seen": text(),
    "least": Field("section"),
    "notes": Field("texts"),
}
_BAD = {
    "id": text(required=True),
    "engine": text(required=True),
    "symptom": text(required=True),
    "remedy": text(required=True),
    "severity": text(required=True, choices=ledger.SEVERITIES),
    "issues": Field("texts"),
    "versions": text(check=versions.check),
    "certain": Field("bool"),
    "beside": Field("section"),
    **{
        name: Field("texts")
        for name in ("models", "checkpoints", "cards", "flags", "any_flags", "without", "env", "without_env")
    },
}
_TOP = {
    "catalogue": Field("whole", required=True),
    "as_of": Field("day", required=True),
    "source": text(),
    "rent": Field("list"),
    "buy": Field("list"),
    "api": Field("list"),
    "accelerators": Field("list"),
    "checkpoints": Field("list"),
    "engines": Field("list"),
    "known_bad": Field("list"),
    "ignore": Field("texts"),
}


@dataclass(slots=True)
class _Reader(Form):
    """From the sections of the file to the catalogue's own values."""

    as_of: datetime.date = datetime.date.min
    source: str = ""
    cards: tuple[Accelerator, ...] = ()

    def overlay(self, said: dict[str, Any]) -> Overlay | None:
        top = self.fields(said, _TOP, ())
        if "catalogue" in top and top["catalogue"] != VERSION:
            self.fault(
                ("catalogue",),
                f"should be {VERSION}, not {top['catalogue']}",
                "a newer Gemstead may be needed",
            )
        self.as_of = top.get("as_of", datetime.date.min)
        self.source = top.get("source", "your own file")
        own = {one.id: one for one in self.entries(top, "accelerators", _ACCELERATOR, self.accelerator)}
        self.cards = (*own.values(), *(one for one in cards.accelerators() if one.id not in own))
        for card in self.entries(top, "buy", _BUY, self.bought):
            own[card.id] = replace(own.get(card.id, card), purchase=card.purchase)
        overlay = Overlay(
            as_of=self.as_of,
            source=self.source,
            rents=tuple(self.entries(top, "rent", _RENT, self.rent)),
            api=tuple(self.entries(top, "api", _API, self.api_price)),
            accelerators=tuple(own.values()),
            checkpoints=tuple(one for one in self.entries(top, "checkpoints", _CHECKPOINT, self.checkpoint)),
            engines=tuple(self.entries(top, "engines", _ENGINE, self.engine)),
            known_bad=tuple(self.entries(top, "known_bad", _BAD, self.bad)),
            ignore=tuple(top.get("ignore", ())),
        )
        self.ignored(overlay)
        return None if self.faults else overlay

    def rent(self, said: dict[str, Any], path: Path) -> Price | None:
        card = self.card(said["gpu"], (*path, "gpu"))
        if card is None:
            return None
        return Price(
            accelerator=card.id,
            who=said.get("who", self.source),
            usd_hour=said["usd_hour"],
            kind=said.get("kind", "on-demand"),
            read=said.get("read", self.as_of),
            source=said.get("source", self.source),
            machine_usd_hour=said.get("machine_usd_hour"),
            note=said.get("note", ""),
            mine=True,
        )

    def bought(self, said: dict[str, Any], path: Path) -> Accelerator | None:
        card = self.card(said["gpu"], (*path, "gpu"))
        day, source = said.get("read", self.as_of), said.get("source", self.source)
        bought = Purchase(said["usd"], said["usd"], None, day, source, mine=True)
        return card and replace(card, purchase=bought)

    def api_price(self, said: dict[str, Any], path: Path) -> ApiPrice | None:
        size = self.size(said["model"], (*path, "model"))
        return (
            ApiPrice(
                provider=said["provider"],
                model=size,
                input_usd=said["in"],
                output_usd=said["out"],
                read=said.get("read", self.as_of),
                source=said.get("source", self.source),
                cached_usd=said.get("cached"),
                note=said.get("note", ""),
                mine=True,
            )
            if size
            else None
        )

    def accelerator(self, said: dict[str, Any], path: Path) -> Accelerator | None:
        base = next((one for one in cards.accelerators() if one.id == said["id"]), None)
        if "like" in said:
            base = self.card(said["like"], (*path, "like"))
            if base is None:
                return None
            # its names and its price are the other one's own
            base = replace(base, aliases=(), purchase=None, name=said["id"], source=self.source)
        peak = self.fields(said.get("tflops", {}), _TFLOPS, (*path, "tflops"))
        changes = {name: value for name, value in said.items() if name not in ("like", "tflops")}
        if "memory_mib" in said:
            changes["memory_derived"] = False
        if base is not None:
            return replace(base, **changes, tflops=replace(base.tflops, **peak))
        needed = ("vendor", "memory_mib", "bandwidth_gbs")
        if missing := [name for name in needed if name not in said]:
            self.fault(
                path, f"needs {', '.join(missing)}", "or `like: ID` to begin from a card that is known"
            )
            return None
        blank = Accelerator(
            id="",
            name=said["id"],
            vendor="",
            arch="",
            sm=None,
            memory_mib=0,
            bandwidth_gbs=0,
            tflops=Tflops(),
            tdp_w=None,
            interconnect="pcie",
            interconnect_gbs=None,
            source=self.source,
        )
        return replace(blank, **changes, tflops=replace(blank.tflops, **peak))

    def checkpoint(self, said: dict[str, Any], path: Path) -> Checkpoint | None:
        if "model" in said:
            size = self.size(said["model"], (*path, "model"))
            if size is None:
                return None
            said["model"] = size
        like = said.pop("like", said["repo"])
        base = next(
            (
                one
                for one in weights.every()
                if like in (one.repo, one.format) and one.model == said.get("model", one.model)
            ),
            None,
        )
        if base is not None:
            return replace(base, source=self.source, **said)
        needed = ("model", "format", "bits", "weights_gib", "engines")
        if missing := [name for name in needed if name not in said]:
            self.fault(path, f"needs {', '.join(missing)}", "or `like: REPO` to begin from one that is known")
            return None
        return Checkpoint(**{"weights_from": "files", "source": self.source, **said})

    def engine(self, said: dict[str, Any], path: Path) -> EngineFacts | None:
        known = {one.engine: one for one in engines()}
        if said["engine"] not in known:
            close = nearest(said["engine"], known)
            self.fault(
                (*path, "engine"),
                f"{shown(said['engine'])} is no engine here",
                f"did you mean `{close}`?" if close else f"known: {', '.join(known)}",
            )
            return None
        base = known[said["engine"]]
        least = {str(name): str(value) for name, value in said.pop("least", {}).items()}
        return replace(base, **said, least={**base.least, **least})

    def bad(self, said: dict[str, Any], path: Path) -> KnownBad | None:
        said["beside"] = {str(package): str(bounds) for package, bounds in said.get("beside", {}).items()}
        for package, bounds in said["beside"].items():
            if wrong := versions.check(bounds):
                self.fault((*path, "beside", package), wrong)
                return None
        said.setdefault("issues", (self.source,))
        return ledger.entry_of(said)

    def ignored(self, overlay: Overlay) -> None:
        known = {one.id for one in (*ledger.ledger(), *overlay.known_bad)}
        for i, one in enumerate(overlay.ignore):
            if one not in known:
                close = nearest(one, known)
                hint = f"did you mean `{close}`?" if close else "see `gemstead catalog list known-bad`"
                self.fault(("ignore", i), f"{shown(one)} is no entry of the ledger", hint)

    def card(self, name: str, at: Path) -> Accelerator | None:
        try:
            return cards.accelerator(name, self.cards or None)
        except Refused as refused:
            self.fault(at, refused.message.rstrip("."))
            return None

    def size(self, name: str, at: Path) -> str | None:
        try:
            return names.find(name if "gemma" in name.casefold() else f"gemma-4-{name}").size
        except Refused as refused:
            self.fault(at, refused.message.rstrip("."))
            return None


def _profiles(said: dict[str, int]) -> str:
    """What is wrong with a card's MIG profiles; empty: nothing."""
    for name, count in said.items():
        if not re.fullmatch(r"[1-7]g\.[0-9]{1,3}gb", name):
            return f"{shown(name)} is no MIG profile: write it like 1g.24gb"
        if not 1 <= count <= 7:
            return f"{name}: between 1 and 7 of a profile fit on a card, not {count}"
    return ""
