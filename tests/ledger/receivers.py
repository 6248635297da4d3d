"""Receivers of audit records that really listen: HTTP collectors and syslog over TLS. What goes wrong is told them."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, str], Any]


class Collector:
    """An HTTP server on loopback. `faults` are answers given before it works: a status, or a function."""

    def __init__(self, answer: Callable[[str, bytes, Any], Answer]) -> None:
        self.faults: list[Any] = []
        self.asked: list[tuple[str, bytes, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked.append((self.path, body, self.headers))
                fault = collector.faults.pop(0) if collector.faults else None
                if callable(fault):
                    fault = fault()
                if fault == "hang up":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                made = answer(self.path, body, self.headers) if fault is None else fault
                status, headers, value = made if isinstance(made, tuple) else (made, {}, {})
                content = json.dumps(value).encode()
                self.send_response(status)
                for name, said in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, said)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Hec(Collector):
    """Splunk's event collector: has what it answered 200 for, and what it acknowledged is on disk."""

    def __init__(self, *, bad: Callable[[dict[str, Any]], bool] = lambda event: False) -> None:
        self.events: list[dict[str, Any]] = []
        self.acks: dict[int, int] = {}  # how often it is asked before it says yes
        self.slow_acks = 0
        self.bad = bad
        super().__init__(self._answer)

    def _answer(self, path: str, body: bytes, headers: Any) -> Answer:
        if headers["authorization"] != "Splunk right-token":
            return 403, {}, {"text": "Invalid token", "code": 4}
        parts = urlsplit(path)
        if "channel" not in parse_qs(parts.query):
            return 400, {}, {"text": "Data channel is missing", "code": 10}
        if parts.path.endswith("/ack"):
            [number] = json.loads(body)["acks"]
            self.acks[number] -= 1
            return 200, {}, {"acks": {str(number): self.acks[number] < 0}}
        for place, line in enumerate(body.split(b"\n")):
            event = json.loads(line)
            if self.bad(event):
                said = {"text": "Invalid data format", "code": 6, "invalid-event-number": place}
                return 400, {}, said
            self.events.append(event)
        number = len(self.acks)
        self.acks[number] = self.slow_acks
        return 200, {}, {"text": "Success", "code": 0, "ackId": number}


class Bulk(Collector):
    """Elastic's bulk API: `create` of an id that is there is a conflict. `item_faults`: which items fail, and how."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.conflicts = 0
        self.item_faults: Callable[[str, dict[str, Any]], int] = lambda uid, document: 0
        super().__init__(self._answer)

    def _answer(self, path: str, body: bytes, headers: Any) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            uid = action["create"]["_id"]
            if status := self.item_faults(uid, document):
                error = {"type": "mapper_parsing_exception", "reason": "quotes the document"}
                items.append({"create": {"_id": uid, "status": status, "error": error}})
            elif uid in self.documents:
                self.conflicts += 1
                items.append({"create": {"_id": uid, "status": 409, "error": {"type": "version_conflict"}}})
            else:
                self.documents[uid] = document
                items.append({"create": {"_id": uid, "status": 201}})
        return 200, {}, {"took": 1, "errors": False, "items": items}


class OtlpCollector(Collector):
    """OpenTelemetry's collector for logs over HTTP."""

    def __init__(self, rejects: Callable[[dict[str, Any]], bool] = lambda log: False) -> None:
        self.logs: list[dict[str, Any]] = []
        self.rejects = rejects
        super().__init__(self._answer)

    def _answer(self, path: str, body: bytes, headers: Any) -> Answer:
        assert path == "/v1/logs"
        logs = json.loads(body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        bad = [log for log in logs if self.rejects(log)]
        self.logs += [log for log in logs if log not in bad]
        if bad:
            said = {"rejectedLogRecords": str(len(bad)), "errorMessage": "too old"}
            return 200, {}, {"partialSuccess": said}
        return 200, {}, {}


class SyslogReceiver:
    """Takes octet-counted messages over TLS. `drops`: hangs up after so many messages, once."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.messages: list[bytes] = []
        self.drops = 0
        self.connections = 0
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(plain,), daemon=True).start()

    def _read(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as sock, sock.makefile("rb") as file:
                self.connections += 1
                while True:
                    length = b""
                    while (digit := file.read(1)) not in (b" ", b""):
                        length += digit
                    if not length:
                        return
                    self.messages.append(file.read(int(length)))
                    if self.drops and len(self.messages) == self.drops:
                        self.drops = 0
                        sock.shutdown(socket.SHUT_RDWR)
                        return
        except (OSError, ValueError):
            return
