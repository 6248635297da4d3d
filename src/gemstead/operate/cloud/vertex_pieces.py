"""What a Vertex AI bundle comes to: pieces in order, their names, and how traffic is divided. Nothing is asked here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gemstead.operate.apply.piece import Piece, Record
from gemstead.render.bundle import Bundle

Object = dict[str, Any]
VERSION = "gemstead-version"  # label of a model's version: the digest of what was uploaded


def pieces(bundle: Bundle) -> tuple[Piece, ...]:
    """The bundle's endpoints, versions, deployments and shares, in the order in which they are applied."""
    found: list[Piece] = []
    for path in bundle.files:
        folder, _, file = path.rpartition("/")
        if file == "model.yaml":
            upload, endpoint, deploy, rollout = (
                yaml.safe_load(bundle.files[f"{folder}/{part}.yaml"])
                for part in ("model", "endpoint", "deploy", "rollout")
            )
            found += _of_model(upload, endpoint, deploy, rollout)
    return tuple(sorted(found, key=lambda piece: piece.stage))


def _of_model(upload: Object, endpoint: Object, deploy: Object, rollout: Object) -> list[Piece]:
    name, model = endpoint["displayName"], digest(upload)
    upload["model"].setdefault("labels", {})[VERSION] = model
    deployed = f"{name}-{digest(upload, deploy)}"
    deploy["deployedModel"]["displayName"] = deployed
    how: Object = {part: rollout[part] for part in ("hold_s", "keep_previous") if part in rollout}
    return [
        Piece(f"Endpoint {name}", endpoint, 0),
        Piece(f"Model {name}-{model}", upload, 1),
        Piece(f"Deployed {deployed}", {**deploy, "endpoint": name, "version": model}, 2),
        *(
            Piece(
                f"Traffic {deployed} {share}",
                {"endpoint": name, "deployed": deployed, "share": share, **how},
                3 + at,
            )
            for at, share in enumerate(rollout["shares"])
        ),
    ]


def at_once(wanted: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces of an earlier bundle for going back: all calls in one step, because every call before it fails."""
    found = [one for one in wanted if not one.key.startswith("Traffic ") or one.document["share"] == 100]
    return tuple(
        Piece(one.key, {name: value for name, value in one.document.items() if name != "hold_s"}, one.stage)
        if one.key.startswith("Traffic ")
        else one
        for one in found
    )


def kept(wanted: Sequence[Piece], history: Sequence[Record]) -> set[str]:
    """Keys of deployments that stay without traffic: those before the wanted ones, where the file keeps them."""
    found: set[str] = set()
    for one in wanted:
        if (
            one.key.startswith("Traffic ")
            and one.document["share"] == 100
            and one.document.get("keep_previous")
        ):
            now = f"Deployed {one.document['deployed']}"
            found |= _before(one.document["endpoint"], now, history)
    return found


def _before(endpoint: str, now: str, history: Sequence[Record]) -> set[str]:
    for record in reversed(history):
        there = {
            one.key
            for one in record.pieces
            if one.key.startswith("Deployed ") and one.document["endpoint"] == endpoint
        }
        if record.status == "applied" and there and now not in there:
            return there
    return set()


def digest(*documents: Object) -> str:
    """Twelve hex digits of what the documents say."""
    return hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()[:12]


def shared(split: Mapping[str, int], mine: str, share: int) -> dict[str, int]:
    """The split in which `mine` has its share and the others keep theirs in proportion; whole percents, 100 in all."""
    others = {name: percent for name, percent in split.items() if name != mine and percent}
    if not others or share == 100:
        return {mine: 100}
    return {**_scaled(others, 100 - share), mine: share}


def without(split: Mapping[str, int], mine: str, others: Sequence[str]) -> dict[str, int]:
    """The split after `mine` is gone; empty when nobody is left."""
    left = {name: percent for name, percent in split.items() if name != mine and percent}
    if left:
        return _scaled(left, 100)
    return {others[0]: 100} if others else {}


def _scaled(shares: Mapping[str, int], whole: int) -> dict[str, int]:
    total = sum(shares.values())
    new = {name: percent * whole // total for name, percent in shares.items()}
    largest = max(shares, key=lambda name: (shares[name], name))
    new[largest] += whole - sum(new.values())
    return new
