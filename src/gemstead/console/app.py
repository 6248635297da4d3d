"""The admin port: health, metrics, and what `gemstead ps`, `stop` and `reload` ask for.

Plain HTTP for probes and Prometheus (`/healthz`, `/readyz`, `/metrics`: open, no secrets, nothing changes),
and `/admin/*` for whoever holds the token in the state folder, or has a role that lets them (`door.py`). The token
keeps other users of the machine out, and web pages too: a browser can be made to send a request to a loopback port,
but not to send this header. Nothing is decided here; the head answers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gemstead.console.api import document
from gemstead.console.door import Door
from gemstead.console.headers import SecurityHeaders

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


# What can be asked of a model, and what each takes besides.
def _yes(said: str) -> bool:
    """`gap=0` and `gap=false` are no."""
    return said.lower() in ("1", "true", "yes", "on")


MODEL_VERBS: dict[str, dict[str, Callable[[str], Any]]] = {
    "restart": {"gap": _yes},
    "start": {"gap": _yes},
    "promote": {},
    "undo": {},
    "sleep": {},
    "wake": {},
    "scale": {"replicas": int, "why": str},
}


class Head(Protocol):
    """What the console asks the running service."""

    def ready(self) -> dict[str, bool]:
        """Every model, and whether it answers."""

    def status(self) -> dict[str, Any]: ...
    async def metrics(self) -> str: ...
    async def reload(self) -> dict[str, Any]:
        """What has changed, or `{"refused": [sentences]}` when the file is bad and the old one stays."""

    async def ask(self, verb: str, model: str, **how: Any) -> dict[str, Any]:
        """Change how a model runs: `{"done": sentence}`, or `{"refused": [sentences]}`."""

    def stop(self, *, now: bool) -> None: ...


def console(head: Head, token: str, door: Door | None = None, pages: Sequence[Route] = ()) -> Starlette:
    """The admin application. `door`: who else gets in besides whoever has the token; `pages`: further routes.

    Every route is behind its rule in `traffic/roles.py`.
    """
    door = door or Door(token, time.time)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        models = head.ready()
        return JSONResponse(
            {"ready": any(models.values()), "models": models}, 200 if any(models.values()) else 503
        )

    async def metrics(_: Request) -> Response:
        return Response(await head.metrics(), media_type=METRICS_TYPE)

    async def status(_: Request) -> Response:
        return JSONResponse(head.status())

    async def described(_: Request) -> Response:
        return JSONResponse(document(routes))

    async def reload(_: Request) -> Response:
        done = await head.reload()
        return JSONResponse(done, 422 if "refused" in done else 200)

    async def model(request: Request) -> Response:
        name, verb = request.path_params["model"], request.path_params["verb"]
        if verb not in MODEL_VERBS:
            return JSONResponse({"error": f"there is no {verb}; there are: {', '.join(MODEL_VERBS)}"}, 404)
        try:
            how = {
                key: read(request.query_params[key])
                for key, read in MODEL_VERBS[verb].items()
                if key in request.query_params
            }
        except ValueError as error:
            return JSONResponse({"refused": [f"a number is wanted: {error}"]}, 422)
        if verb == "scale" and "replicas" not in how:
            return JSONResponse({"refused": ["say how many: scale?replicas=2"]}, 422)
        done = await head.ask(verb, name, **how)
        return JSONResponse(done, 409 if "refused" in done else 200)

    async def stop(request: Request) -> Response:
        head.stop(now=request.query_params.get("now") == "1")
        return JSONResponse({"stopping": True}, 202)

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/admin/status", status),
        Route("/admin/openapi.json", described),
        Route("/admin/reload", reload, methods=["POST"]),
        Route("/admin/stop", stop, methods=["POST"]),
        Route("/admin/models/{model:path}/{verb}", model, methods=["POST"]),
        *pages,
    ]
    return Starlette(
        routes=[door.guarded(route) for route in routes],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _no_such},
    )


async def _no_such(request: Request, error: Exception) -> Response:
    """What is not there, or cannot be done with what is, in the same form as any other refusal."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = {404: f"there is no {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    headers = error.headers if isinstance(error, HTTPException) else None
    words = said.get(status, "this cannot be answered")
    return JSONResponse({"error": f"{words}; see /admin/openapi.json"}, status, headers=headers)


class Server(uvicorn.Server):
    """uvicorn inside the head: the head has the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: Starlette) -> Server:
    """The admin server; `await serve(sockets=[listener])` runs it on a socket that already listens."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return Server(config)
