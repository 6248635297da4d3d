"""The plain port of a picker: health for probes, metrics for Prometheus, and what it knows of its endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gemstead.console.app import METRICS_TYPE


def pages(
    metrics: Callable[[], str], ready: Callable[[], str], endpoints: Callable[[], list[dict[str, Any]]]
) -> Starlette:
    """The application. `ready` says why the picker is not; "" when it is."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        why = ready()
        return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)

    async def shown(_: Request) -> Response:
        return JSONResponse(endpoints())

    async def exposed(_: Request) -> Response:
        return Response(metrics(), media_type=METRICS_TYPE)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", exposed),
            Route("/endpoints", shown),
        ]
    )
