"""The file's `routes` and `traffic` as the gateway is told them: every model by the name of its pool."""

from __future__ import annotations

from collections.abc import Iterable

from gemstead.gateway.settings import Pool
from gemstead.refused import Refused
from gemstead.spec.model import Spec
from gemstead.spec.traffic import RouteSpec
from gemstead.traffic.queue import QueueBounds
from gemstead.traffic.routes import Routes
from gemstead.traffic.rules import Rule, Target
from gemstead.wiring.secrets import CannotRun


def rules(spec: Spec, pools: Iterable[Pool]) -> tuple[Rule, ...]:
    """The routes, in order.

    Raises:
        CannotRun: one names a model that the file has not.
    """
    known = Routes((pool.name, pool.aliases) for pool in pools)
    return tuple(_rule(route, f"routes[{number}]", known) for number, route in enumerate(spec.routes))


def _rule(route: RouteSpec, where: str, known: Routes) -> Rule:
    when, mirror = route.when, route.mirror

    def pool(name: str, place: str) -> str:
        try:
            return known.pool(name)
        except Refused as refusal:
            raise CannotRun(f"{where}.{place}: {refusal.message}") from None

    return Rule(
        name=route.name,
        models=tuple(pool(name, "when.models") for name in when.models),
        tenants=when.tenants,
        headers={name.lower(): value for name, value in when.headers.items()},
        prompt_from=when.prompt_tokens_from,
        prompt_below=when.prompt_tokens_below,
        answer_from=when.answer_tokens_from,
        answer_below=when.answer_tokens_below,
        turns_from=when.turns_from,
        turns_below=when.turns_below,
        tools=when.tools,
        images=when.images,
        targets=tuple(Target(pool(one.model, "to"), one.weight) for one in route.to),
        sticky=route.sticky,
        fallbacks=tuple(pool(name, "fallback") for name in route.fallback),
        mirror=pool(mirror.model, "mirror") if mirror else "",
        mirror_share=mirror.percent / 100.0 if mirror else 0.0,
    )


def queue_bounds(spec: Spec) -> QueueBounds:
    """How much may wait. Each worker has its part of it."""
    queue, workers = spec.traffic.queue, spec.gateway.workers
    return QueueBounds(
        requests=-(-queue.requests // workers),
        bytes=queue.mib * 1024 * 1024 // workers,
        wait_s=queue.wait_s,
        starting_wait_s=spec.supervise.wake_s,
    )


def aims(spec: Spec) -> dict[str, float]:
    """By tenant, the seconds after which a waiting call is of no use; "" for all others."""
    said = {name: tenant.first_token_s for name, tenant in spec.traffic.tenants.items()}
    return {name: aim_s for name, aim_s in {"": spec.traffic.first_token_s, **said}.items() if aim_s}
