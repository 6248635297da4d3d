"""The door that Vertex AI knocks at: its predict route and its health route, in front of the gateway's own.

An exchange of Vertex's becomes one of the gateway's when its body is whole: the body is put into the gateway's form,
and the answer is put back. Everything between (limits, records, picking, retries) is the gateway's. Health is
readiness: Vertex sends calls to a container only while its model can answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemstead.gateway.exchange import WHOLE, Exchange
from gemstead.openai import evening, vertex
from gemstead.openai.requests import ROUTES
from gemstead.refused import Refused

if TYPE_CHECKING:
    from gemstead.gateway.app import Gateway
    from gemstead.gateway.protocol import ClientConnection
    from gemstead.gateway.upstream import UpstreamConnection


class VertexExchange(Exchange):
    """One request of Vertex's."""

    form = vertex.AS_IS
    plain = b""  # the answer before it was wrapped: its usage is counted

    def __init__(
        self,
        gate: Gateway,
        client: ClientConnection,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        http11: bool,
        health: bool,
    ) -> None:
        super().__init__(
            gate, client, method, url, headers, http11, "/readyz" if health else "/v1/chat/completions"
        )

    def begin(self) -> None:
        if self.refusal is None and self.method == b"POST" and self.path in ROUTES:
            try:
                found = vertex.asked(b"".join(self.parts), self.gate.only_model())
            except Refused as refusal:
                self.refusal = refusal
            else:
                self.parts = [found.body]
                self.path, self.url, self.form = found.path, found.path.encode(), found.form
                self.dialect = ROUTES[found.path]
                self.record.route = found.path
        super().begin()

    def upstream_head(
        self, up: UpstreamConnection, status: int, headers: dict[bytes, bytes], length: int
    ) -> None:
        super().upstream_head(up, status, headers, length)
        if self.form and status == 200 and self.up is up and self.meter is None:
            self.answer = (*self.answer[:2], WHOLE)

    def upstream_whole(self, content: bytes, body: bytes) -> None:
        if self.form:
            if self.need is not None and self.need.whole:
                body = evening.whole(body, self.need)
                self.need = None
            self.plain = body
            body = vertex.answered(body, self.form)
        super().upstream_whole(content, body)

    def count_tokens(self) -> None:
        if self.plain:
            self.whole = [self.plain]
        super().count_tokens()
