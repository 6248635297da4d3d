"""The one file, planned for somewhere else: what every target in `render/` is handed.

The hardware is that of `deploy.hardware`, not of this machine. Each model that has no `endpoints` of its own becomes a
pool; cards that are said to be there are dealt out to the models in the order of the file, in proportion to what their
weights need. Nothing is fetched, started or asked: the same file and catalogue give the same deployment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import gemstead
from gemstead.catalog.accelerators import Accelerator
from gemstead.catalog.catalogue import Catalogue
from gemstead.catalog.checkpoints import checkpoints
from gemstead.engines.commands import launch_command
from gemstead.plan.api import Proposal, model_named, plan
from gemstead.plan.layout import Layout
from gemstead.plan.placement import Media, Placement
from gemstead.plan.startup import startup
from gemstead.refused import Reason, Refused
from gemstead.render.because import Because
from gemstead.render.deployment import ENGINE_PORT, Deployment, Pool, needs_of
from gemstead.render.docker import gateway_name
from gemstead.render.images import NONE, Digests, chosen, engine_image, gateway_image, in_image
from gemstead.spec.deploy import DeploySpec
from gemstead.spec.model import ModelSpec, Spec

STORAGE = {
    "volume": "network-disk",
    "bucket-fuse": "bucket-fuse",
    "bucket-stream": "bucket-stream",
    "image": "nvme",
}
NO_CARD = "cpu-server"


def deployment(spec: Spec, catalogue: Catalogue, digests: Digests = NONE) -> Deployment:
    """What is shipped for this Spec; `digests` of images are those of the lock file.

    Raises:
        Refused: a card or model that is not known, or a model that fits nowhere; the sentence says what to do.
    """
    local = [model for model in spec.models if not model.endpoints and model.engine != "external"]
    hardware = spec.deploy.hardware
    card = catalogue.accelerator(hardware.gpu or NO_CARD)
    counts = _dealt(local, card, hardware.count)
    pools = tuple(
        _pool(model, count, card, spec, catalogue, digests)
        for model, count in zip(local, counts, strict=True)
    )
    notes = [note for pool in pools for note in pool.command.notes]
    notes += [f"{card.name}: {limit}" for limit in card.limits]
    own = spec.deploy.images.get("gateway", "")
    found = Deployment(
        spec,
        pools,
        chosen(own, digests),  # ours is named by what is in it, which is known when the rest is
        gemstead.__version__,
        tuple(dict.fromkeys(notes)),
        digests,
    )
    return found if own else replace(found, gateway=gateway_image(gateway_name(found), digests))


def _dealt(models: Sequence[ModelSpec], card: Accelerator, count: int | None) -> list[int | None]:
    """Cards for each model: at least what its weights need, the rest in proportion."""
    if count is None or len(models) == 1 or card.vendor == "cpu":
        return [count if card.vendor != "cpu" else None for _ in models]
    sizes = [checkpoints(model_named(model.name).size)[0].weights_bytes for model in models]
    least = [max(1, -(-size // card.memory_bytes)) for size in sizes]
    if sum(least) > count:
        raise Refused(
            Reason.BAD_REQUEST,
            f"deploy.hardware.count: {len(models)} models need at least {sum(least)} cards of {card.name}, not {count}",
        )
    dealt = list(least)
    while sum(dealt) < count:
        neediest = max(range(len(models)), key=lambda at: (least[at] / dealt[at], -at))
        dealt[neediest] += 1
    return list(dealt)


def _pool(
    model: ModelSpec, count: int | None, card: Accelerator, spec: Spec, catalogue: Catalogue, digests: Digests
) -> Pool:
    deploy = spec.deploy
    found = _proposal(model, count, card, deploy, catalogue)
    layout = found.chosen
    if not layout.memory.fits or not layout.replicas:
        raise Refused(
            Reason.BAD_REQUEST,
            f"{model.name} does not fit on {card.name}: {layout.memory.verdict()}",
        )
    placement = replace(
        _anywhere(layout, found), thinking=model.thinking, drain_s=int(deploy.load.longest_answer_s)
    )
    starting = startup(layout.setup, STORAGE[deploy.cache.kind])
    return Pool(
        name=dns_name(found.model.name if model.file is None else model.name),
        model=model,
        layout=layout,
        placement=placement,
        command=in_image(launch_command(placement), layout.setup.accelerator.vendor),
        image=engine_image(layout.setup, model.image or deploy.images.get(layout.setup.engine, ""), digests),
        replicas=_replicas(model, layout, count),
        needs=needs_of(layout),
        startup=starting,
        longest_answer_s=int(deploy.load.longest_answer_s),
    )


def _proposal(
    model: ModelSpec, count: int | None, card: Accelerator, deploy: DeploySpec, catalogue: Catalogue
) -> Proposal:
    load = deploy.load
    engine = "" if model.engine in ("auto", None) else model.engine
    if card.vendor == "cpu" and engine in ("", "embedded"):
        engine = "llamacpp"  # what the embedded engine is, as an image that its makers publish
    return plan(
        model.name,
        card,
        count,
        users=load.users,
        requests_per_s=load.requests_per_s,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        context=model.context or 0,
        engine=engine,
        engine_version=model.engine_version or "",
        weights=model.checkpoint or (model.quantization or "").upper(),
        tp=model.tensor_parallel,
        drafting=0 if model.draft == "off" else model.draft_tokens,
        media=Media(images=load.images),
        catalogue=catalogue,
        compare=False,
    )


def _anywhere(layout: Layout, found: Proposal) -> Placement:
    """One replica without a place: a container has one address and sees only its own cards."""
    first = layout.placements(found.traffic.media)[0]
    return replace(first, host="0.0.0.0", port=ENGINE_PORT, devices=())


def _replicas(model: ModelSpec, layout: Layout, count: int | None) -> Because:
    if model.replicas > 1:
        return Because(model.replicas, "as the file says")
    if layout.capacity is not None:
        return Because(layout.replicas, f"the busiest hour with headroom, {layout.spares} of them spare")
    if count is not None:
        return Because(layout.replicas, f"as many as {count} cards carry")
    return Because(layout.replicas, "nobody said how much traffic there is: deploy.load")


def dns_name(name: str) -> str:
    """The name as DNS allows it: lower case letters, digits and hyphens, at most 40 of them.

    Raises:
        Refused: nothing of it is left.
    """
    found = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40].strip("-")
    if not found:
        raise Refused(Reason.BAD_REQUEST, f"`{name[:64]}` has no letter or digit that a host name may have")
    return found
