"""Receivers that speak HTTP: Splunk's event collector, Elastic's bulk API, OpenTelemetry logs.

Wire forms: Splunk "HTTP Event Collector" with indexer acknowledgement (services/collector/ack); Elasticsearch
`_bulk` with `create`, whose document id makes a record that comes twice a conflict (409) instead of a second one;
OTLP/HTTP in JSON (opentelemetry.io/docs/specs/otlp, `ExportLogsServiceRequest`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec

from gemstead import __version__
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.ship.forms import Shipped, shaped
from gemstead.ledger.ship.sink import Later, SinkSettings, TooLarge, Unwanted

ACK_PAUSE_S = 0.2
_AGAIN = frozenset(
    {401, 403, 404, 408, 421, 425, 429}
)  # a token or address that the operator will correct, or load
# HEC's codes for what the operator sets: token, index, channel, acknowledgement; and for a server that is busy
_SPLUNK_SETTINGS = frozenset({1, 2, 3, 4, 7, 8, 9, 10, 11, 14})
_REJECTED_MOST = 200  # characters of a receiver's words: it may quote the record


class HttpSink:
    """A client with the sink's token, CA and client certificate."""

    def __init__(self, settings: SinkSettings, scheme: str) -> None:
        self.settings = settings
        headers = {"user-agent": f"gemstead/{__version__}"}
        if settings.token:
            headers["authorization"] = f"{scheme} {settings.token}"
        self.client = httpx2.Client(
            headers=headers,
            timeout=settings.timeout_s,
            verify=_tls(settings),
            follow_redirects=False,
            trust_env=False,
        )

    def post(self, path: str, content: bytes, kind: str = "application/json", **params: str) -> Any:
        """The answer's JSON.

        Raises:
            Later, TooLarge, Rejected: as the status says.
        """
        url = self.settings.url.rstrip("/") + path
        try:
            answer = self.client.post(
                url, content=content, headers={"content-type": kind}, params=params or None
            )
        except httpx2.HTTPError as error:
            raise Later(f"cannot be reached: {type(error).__name__}") from None
        if answer.status_code == 413:
            raise TooLarge
        if answer.status_code >= 500 or answer.status_code in _AGAIN or answer.is_redirect:
            raise Later(f"answered {answer.status_code}", _retry_after(answer.headers.get("retry-after")))
        try:
            said = answer.json() if answer.content else {}
        except ValueError:
            said = {}
        if answer.status_code >= 400:
            raise Rejected(answer.status_code, said)
        return said

    def close(self) -> None:
        self.client.close()


class Rejected(Exception):
    """The receiver said that it will never take these bytes."""

    def __init__(self, status: int, said: Any) -> None:
        super().__init__(f"answered {status}")
        self.status, self.said = status, said


class Splunk(HttpSink):
    """Splunk's HTTP Event Collector. With `acknowledge`, a batch counts when an indexer has it on disk."""

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings, "Splunk")
        self.channel = str(uuid.uuid4())

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        content = b"\n".join(msgspec.json.encode(self._event(one)) for one in batch)
        try:
            said = self.post("/services/collector/event", content, channel=self.channel)
        except Rejected as rejected:
            return self._sorted_out(batch, rejected)
        if self.settings.acknowledge and isinstance(said, dict) and isinstance(said.get("ackId"), int):
            self._wait(said["ackId"])
        return []

    def _event(self, one: Shipped) -> dict[str, Any]:
        event = {
            "time": round(one.at, 3),
            "host": "gemstead",
            "source": "gemstead:audit",
            "sourcetype": f"gemstead:audit:{self.settings.form}",
            "event": shaped(one, self.settings.form),
        }
        return {**event, "index": self.settings.index} if self.settings.index else event

    def _sorted_out(self, batch: Sequence[Shipped], rejected: Rejected) -> Unwanted:
        """HEC refuses a batch at its first bad event, and names it: those before it were taken."""
        said = rejected.said if isinstance(rejected.said, dict) else {}
        text = str(said.get("text", rejected))[:_REJECTED_MOST]
        if said.get("code") in _SPLUNK_SETTINGS:
            raise Later(f"answered {rejected.status}: {text}")
        number = said.get("invalid-event-number")
        if not isinstance(number, int) or not 0 <= number < len(batch):
            if len(batch) > 1:
                raise TooLarge
            number = 0
        rest = batch[number + 1 :]
        return [(batch[number].seq, text), *(self.send(rest) if rest else [])]

    def _wait(self, number: int) -> None:
        """Until the indexer has it; longer than the time-out means: send it again."""
        until = time.monotonic() + self.settings.timeout_s
        asked = msgspec.json.encode({"acks": [number]})
        while time.monotonic() < until:
            try:
                said = self.post("/services/collector/ack", asked, channel=self.channel)
            except Rejected as rejected:
                raise Later(f"does not acknowledge: {rejected}") from None
            if isinstance(said, dict) and said.get("acks", {}).get(str(number)):
                return
            time.sleep(ACK_PAUSE_S)
        raise Later("took the batch and did not acknowledge it in time")


class Elastic(HttpSink):
    """Elasticsearch or OpenSearch."""

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings, "ApiKey")

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        """Items that failed for a passing reason are sent again with the next try; those that are there are done."""
        unwanted: Unwanted = []
        again: list[Shipped] = []
        why = ""
        for one, (status, reason) in zip(batch, self._bulk(batch), strict=True):
            if status == 429 or status >= 500:
                again.append(one)
                why = f"answered {status} for {len(again)} of {len(batch)} records"
            elif status >= 400 and status != 409:
                unwanted.append((one.seq, f"{status} {reason}"[:_REJECTED_MOST]))
        if again:
            if len(again) == len(batch):
                raise Later(why)
            time.sleep(ACK_PAUSE_S)
            unwanted += self.send(again)
        return unwanted

    def _bulk(self, batch: Sequence[Shipped]) -> list[tuple[int, str]]:
        lines = []
        index = self.settings.index or "gemstead-audit"
        for one in batch:
            lines.append(msgspec.json.encode({"create": {"_index": index, "_id": one.uid}}))
            lines.append(msgspec.json.encode(shaped(one, self.settings.form)))
        try:
            said = self.post("/_bulk", b"\n".join(lines) + b"\n", "application/x-ndjson")
            items = [item["create"] for item in said["items"]]
            answers = [(int(item["status"]), str(item.get("error", {}).get("type", ""))) for item in items]
        except Rejected as rejected:
            if len(batch) > 1:
                raise TooLarge from None
            return [(rejected.status, "rejected")]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Later("did not answer as a bulk API does") from None
        if len(answers) != len(batch):
            raise Later("answered for another number of records")
        return answers


class Otlp(HttpSink):
    """OpenTelemetry logs over HTTP: `url` + /v1/logs."""

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings, "Bearer")

    def send(self, batch: Sequence[Shipped]) -> Unwanted:
        resource = {
            "attributes": [_attribute("service.name", "gemstead"), _attribute("service.version", __version__)]
        }
        logs = [{"scope": {"name": "gemstead.audit"}, "logRecords": [self._log(one) for one in batch]}]
        content = msgspec.json.encode({"resourceLogs": [{"resource": resource, "scopeLogs": logs}]})
        try:
            said = self.post("/v1/logs", content)
        except Rejected as rejected:
            if len(batch) > 1:
                raise TooLarge from None
            return [(batch[0].seq, str(rejected))]
        partial = said.get("partialSuccess", {}) if isinstance(said, dict) else {}
        if int(partial.get("rejectedLogRecords", 0)):
            # it does not say which, and the rule is not to send again: halve until it is one
            if len(batch) > 1:
                raise TooLarge
            return [(batch[0].seq, str(partial.get("errorMessage", "rejected"))[:_REJECTED_MOST])]
        return []

    def _log(self, one: Shipped) -> dict[str, Any]:
        call = isinstance(one.record, AuditRecord)
        return {
            "timeUnixNano": str(round(one.at * 1e9)),
            "observedTimeUnixNano": str(time.time_ns()),
            "severityNumber": 9,
            "severityText": "INFO",
            "eventName": "gemstead.audit.call" if call else "gemstead.audit.act",
            "body": {"stringValue": msgspec.json.encode(shaped(one, self.settings.form)).decode()},
            "attributes": [
                _attribute("log.record.uid", one.uid),
                _attribute("gemstead.audit.form", self.settings.form),
            ],
        }


def _attribute(name: str, value: str) -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": value}}


def _retry_after(said: str | None) -> float | None:
    try:
        return min(max(float(said), 0.0), 600.0) if said else None
    except ValueError:
        return None


def _tls(settings: SinkSettings) -> Any:
    from gemstead.ledger.ship.tls import context

    return context(settings)
