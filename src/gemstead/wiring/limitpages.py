"""The admin port's routes for limits: what is used, and letting a counter begin anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gemstead.gateway.control import Held
from gemstead.ledger.counters import StoreAway
from gemstead.traffic.hold import Crossed
from gemstead.wiring.counters import LimitStore


def limit_routes(store: LimitStore, held: Callable[[], Awaitable[list[Held]]] | None = None) -> list[Route]:
    """`GET /admin/limits` and `POST /admin/limits/reset?rule=...&who=...`. `held` asks what workers hold."""

    async def show(_: Request) -> Response:
        try:
            return JSONResponse(await store.show(await held() if held else ()))
        except StoreAway as error:
            return JSONResponse({"refused": [str(error)]}, 503)

    async def reset(request: Request) -> Response:
        rule, who = request.query_params.get("rule", ""), request.query_params.get("who", "")
        if not rule:
            return JSONResponse({"refused": ["say which rule: ?rule=NAME"]}, 422)
        try:
            ids = await store.reset(rule, who)
        except StoreAway as error:
            return JSONResponse({"refused": [str(error)]}, 503)
        if not ids:
            return JSONResponse({"refused": [f"nothing is counted for rule {rule!r} {who}".rstrip()]}, 404)
        return JSONResponse({"reset": ids})

    return [
        Route("/admin/limits", show),
        Route("/admin/limits/reset", reset, methods=["POST"]),
    ]


def told(one: Crossed) -> dict[str, Any]:
    """A warning as the audit log keeps it."""
    cap, scale = one.cap, 1e9 if one.cap.unit == "money" else 1
    return {
        "rule": cap.rule,
        "who": cap.who,
        "limit": cap.name,
        "level": one.level,
        "used": one.used / scale,
        "most": cap.limit / scale,
    }
