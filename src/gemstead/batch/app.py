"""`/v1/files` and `/v1/batches` as the gateway passes them on.

The gateway has identified the caller and bounded the body; it says both secret and caller in headers, and nobody else
is listened to. Everything is asked for within the caller's tenant: another tenant's file is not there.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from gemstead.batch.folder import Draft, Folder
from gemstead.batch.run import why
from gemstead.batch.runner import Runner, unix
from gemstead.batch.uploads import Upload
from gemstead.ledger.batches import Lost, Seen, is_full
from gemstead.ledger.database import LedgerTrouble
from gemstead.openai import batches, errors, files
from gemstead.openai.batches import Batch
from gemstead.openai.files import File
from gemstead.refused import Reason, Refused
from gemstead.traffic.caller import Caller

CALLER_HEADER = "x-gemstead-caller"
ORDER_MOST = 65_536  # bytes of a batch's order
Handler = Callable[[Request, Caller], Awaitable[Response]]

_caller = msgspec.json.Decoder(Caller).decode


class Desk:
    """The routes."""

    def __init__(self, runner: Runner, folder: Folder) -> None:
        self.runner, self.store, self.folder = runner, runner.store, folder
        self.rows, self.shelf, self.settings = runner.rows, runner.shelf, runner.settings

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/files", self._guarded({"POST": self.upload, "GET": self.list_files})),
                Route("/v1/files/{id}", self._guarded({"GET": self.file, "DELETE": self.delete_file})),
                Route("/v1/files/{id}/content", self._guarded({"GET": self.content})),
                Route("/v1/batches", self._guarded({"POST": self.order, "GET": self.list_batches})),
                Route("/v1/batches/{id}", self._guarded({"GET": self.batch})),
                Route("/v1/batches/{id}/cancel", self._guarded({"POST": self.cancel})),
                Route("/{rest:path}", self._guarded({})),
            ]
        )

    # Files.

    async def upload(self, request: Request, caller: Caller) -> Response:
        file_id = "file-" + secrets.token_hex(12)
        form = Upload(
            request.headers.get("content-type", ""),
            lambda: Draft(self.folder, file_id),
            self.settings.file_bytes,
        )
        try:
            await form.take(request.stream())
            files.check_purpose(form.fields.get("purpose"))
            now = unix()
            expires_at = files.expiry(form.fields, now, self.settings.retention_s)
            assert form.draft is not None
            await asyncio.to_thread(form.draft.keep)
            file = File(
                file_id=file_id,
                tenant=caller.tenant,
                purpose=files.UPLOADED,
                filename=files.clean_name(form.filename),
                size_bytes=form.draft.size_bytes,
                created_at=now,
                expires_at=expires_at,
            )
            await asyncio.to_thread(self.shelf.taken, file_id)
            await self.rows(self.store.add_file, file)
        except BaseException:
            if form.draft is not None:
                form.draft.drop()
            self.folder.remove(self.folder.file(file_id))
            raise
        return _json(files.form(file))

    async def list_files(self, request: Request, caller: Caller) -> Response:
        page = files.read_page(request.query_params, usual=files.LIST_MOST, most=files.LIST_MOST)
        found, more = await self.rows(self.store.files, caller.tenant, page)
        return _json(files.listing([files.form(file) for file in found], more))

    async def file(self, request: Request, caller: Caller) -> Response:
        return _json(files.form(await self._file(request, caller)))

    async def content(self, request: Request, caller: Caller) -> Response:
        file = await self._file(request, caller)
        if self.shelf.shared:
            return await self._streamed(file)
        path = self.folder.file(file.file_id)
        if not path.exists():
            raise Refused(Reason.INTERNAL, f"The bytes of {file.file_id} are missing; tell the operator.")
        return FileResponse(path, media_type="application/octet-stream", filename=file.filename)

    async def _streamed(self, file: File) -> Response:
        """The file's bytes as the store gives them, part by part."""
        pieces = self.shelf.pieces(file)
        try:
            first = await asyncio.to_thread(next, pieces, b"")
        except FileNotFoundError:
            raise Refused(
                Reason.INTERNAL, f"The bytes of {file.file_id} are missing; tell the operator."
            ) from None

        async def body() -> AsyncIterator[bytes]:
            piece = first
            while piece:
                yield piece
                piece = await asyncio.to_thread(next, pieces, b"")

        name = f"attachment; filename*=utf-8''{quote(file.filename)}"
        headers = {"content-length": str(file.size_bytes), "content-disposition": name}
        return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)

    async def delete_file(self, request: Request, caller: Caller) -> Response:
        file = await self._file(request, caller)
        if batch_id := await self.rows(self.store.remove_file, caller.tenant, file.file_id):
            raise Refused(
                Reason.BAD_REQUEST,
                f"{file.file_id} is the input of {batch_id}, which goes on: cancel that first.",
                param="file_id",
                code="file_in_use",
            )
        self.shelf.remove(file.file_id)
        return _json(files.deleted(file.file_id))

    async def _file(self, request: Request, caller: Caller) -> File:
        file_id = request.path_params["id"]
        file: File | None = await self.rows(self.store.file, caller.tenant, file_id)
        if file is None or (file.expires_at is not None and file.expires_at <= unix()):
            raise _Missing(f"No such File object: {file_id[:128]}")
        return file

    # Batches.

    async def order(self, request: Request, caller: Caller) -> Response:
        body = b""
        async for piece in request.stream():
            if len(body) <= ORDER_MOST:
                body += piece
        if len(body) > ORDER_MOST:
            raise Refused(Reason.BODY_TOO_LARGE, f"An order for a batch has at most {ORDER_MOST} bytes.")
        order = batches.read_order(body, self.settings.window_s)
        file = await self.rows(self.store.file, caller.tenant, order.input_file_id)
        missing = _Missing(f"No such File object: {order.input_file_id}", "input_file_id")
        if file is None:
            raise missing
        if file.purpose != files.UPLOADED:
            what = f"{file.file_id} was not uploaded with `purpose=batch`."
            raise Refused(Reason.BAD_REQUEST, what, param="input_file_id")
        now = unix()
        batch = Batch(
            batch_id="batch_" + secrets.token_hex(12),
            tenant=caller.tenant,
            order=order,
            created_at=now,
            expires_at=now + order.window_s,
        )
        self.runner.expected.add(batch.batch_id)
        try:
            held = await self.rows(self.store.add_batch, batch, caller)
            if held is None:
                raise missing
            self.runner.take(held)
        finally:
            self.runner.expected.discard(batch.batch_id)
        return _json(batches.form(batch))

    async def list_batches(self, request: Request, caller: Caller) -> Response:
        page = replace(
            files.read_page(request.query_params, usual=20, most=batches.LIST_MOST), ascending=False
        )
        found, more = await self.rows(self.store.batches, caller.tenant, page)
        return _json(files.listing([self._form(seen) for seen in found], more))

    async def batch(self, request: Request, caller: Caller) -> Response:
        return _json(self._form(await self._batch(request, caller)))

    async def cancel(self, request: Request, caller: Caller) -> Response:
        batch = (await self._batch(request, caller)).batch
        if batch.ended:
            raise Refused(
                Reason.BAD_REQUEST,
                f"Cannot cancel a batch with status '{batch.status}'.",
                code="batch_not_cancellable",
            )
        try:
            await self.runner.cancel(batch.batch_id)
        except Lost:  # another gateway has it, and hears of it within about a second
            await self.rows(self.store.ask_cancel, caller.tenant, batch.batch_id, unix())
        return _json(self._form(await self._batch(request, caller)))

    async def _batch(self, request: Request, caller: Caller) -> Seen:
        batch_id = request.path_params["id"]
        seen: Seen | None = await self.rows(self.store.batch, caller.tenant, batch_id)
        if seen is None:
            raise _Missing(f"No batch found with id '{batch_id[:128]}'.")
        return seen

    def _form(self, seen: Seen) -> dict[str, Any]:
        return batches.form(*self.runner.shown(seen))

    # Who is listened to, and how "no" looks.

    def _guarded(self, handlers: dict[str, Handler]) -> type:
        """An ASGI endpoint for these methods. Whatever is raised becomes an answer in OpenAI's form."""
        desk = self

        class Guarded:
            def __init__(self, scope: Any, receive: Any, send: Any) -> None:
                self.scope, self.receive, self.send = scope, receive, send

            def __await__(self) -> Any:
                return self._answer().__await__()

            async def _answer(self) -> None:
                request = Request(self.scope, self.receive)
                try:
                    response = await desk._answer(request, handlers)
                except ClientDisconnect:
                    return
                except Exception as error:
                    response = refused(error)
                await response(self.scope, self.receive, self.send)

        return Guarded

    async def _answer(self, request: Request, handlers: dict[str, Handler]) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.settings.secret.encode()):
            raise Refused(Reason.FORBIDDEN, "Only the gateway is answered here.")
        caller = _caller(base64.urlsafe_b64decode(request.headers[CALLER_HEADER]))
        if not handlers:
            raise Refused(Reason.UNKNOWN_ROUTE, f"There is nothing at {request.url.path[:128]}.")
        handler = handlers.get(request.method)
        if handler is None:
            raise Refused(Reason.WRONG_METHOD, f"Use {' or '.join(handlers)} for {request.url.path[:128]}.")
        return await handler(request, caller)


class _Missing(Exception):
    """There is no such thing in the caller's tenant."""

    def __init__(self, sentence: str, param: str = "id") -> None:
        super().__init__(sentence)
        self.param = param


def refused(error: Exception) -> Response:
    """The answer for whatever was raised."""
    if isinstance(error, Refused):
        return Response(errors.body(error, "openai", ""), errors.STATUS[error.reason], media_type=JSON)
    if isinstance(error, _Missing):
        return _error(404, str(error), "invalid_request_error", error.param, None)
    if isinstance(error, LedgerTrouble | OSError):
        full = is_full(error)
        code = "insufficient_storage" if full else "storage_unavailable"
        return _error(507 if full else 503, f"Nothing was kept: {why(error)}.", "server_error", None, code)
    import traceback

    traceback.print_exception(error)  # to the log of this process
    return _error(500, "The batch service failed; the operator can find why in its log.", "server_error")


def _error(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None
) -> Response:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Response(msgspec.json.encode(body), status, media_type=JSON)


JSON = "application/json"


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)
