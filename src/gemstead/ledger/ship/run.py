"""Sends records to receivers: one thread each, so that one that is down or slow holds up no other.

It reads what is in the ledger and has nothing to do with the request path: a call never waits for a receiver. A
receiver that does not take a batch gets it again after 1 s, and then at doubling pauses of up to a minute, or when it
says (Retry-After).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from gemstead.ledger.database import LedgerTrouble
from gemstead.ledger.ship.sink import Later, ShipSettings, Sink, SinkSettings, TooLarge
from gemstead.ledger.ship.source import FileSource, Source

PAUSE_S, PAUSE_MOST_S = 1.0, 60.0


def sink_of(settings: SinkSettings) -> Sink:
    """The way to a receiver.

    Raises:
        Later: it cannot be made: a library or a certificate is missing.
    """
    from gemstead.ledger.ship import http, s3, syslog

    kinds: dict[str, Callable[[SinkSettings], Sink]] = {
        "splunk": http.Splunk,
        "elastic": http.Elastic,
        "otlp": http.Otlp,
        "syslog": syslog.Syslog,
        "s3": s3.S3,
    }
    try:
        return kinds[settings.to](settings)
    except OSError as error:
        raise Later(f"its certificates cannot be used: {error.strerror or type(error).__name__}") from None


class Shipment:
    """The sending of one ledger to one receiver. For one thread."""

    def __init__(
        self, audit: Path, settings: SinkSettings, tell: Callable[[str], None], source: Source | None = None
    ) -> None:
        """`tell`: hears in one sentence when sending begins to fail, and when it works again. `source`: where records
        come from, when it is not the file alone."""
        self.settings, self._tell = settings, tell
        self._source = source or FileSource(audit, settings.name)
        self._sink: Sink | None = None
        self._most = settings.batch
        self._failures = 0

    def step(self) -> float:
        """Send one batch; the seconds until the next step."""
        try:
            sent = self._send()
        except TooLarge:
            return 0.0
        except Later as later:
            return self._failed(str(later), later.retry_after_s)
        except LedgerTrouble as trouble:
            return self._failed(str(trouble), None)
        except Exception as error:  # a fault of ours in one receiver's code must not end its thread
            return self._failed(f"met a fault: {type(error).__name__}", None)
        if self._failures:
            self._failures = 0
            self._tell(f"audit records reach {self.settings.name} again")
        return 0.0 if sent >= self._most else self.settings.every_s

    def close(self) -> None:
        self._source.close()
        if self._sink is not None:
            self._sink.close()

    def _send(self) -> int:
        cursor, batch = self._source.next(self._most)
        if not batch:
            if cursor.trouble:
                self._source.recovered()
            return 0
        if self._sink is None:
            self._sink = sink_of(self.settings)
        try:
            unwanted = self._sink.send(batch)
        except TooLarge:
            if len(batch) > 1:
                self._most = max(1, len(batch) // 2)
                raise
            unwanted = [(batch[0].seq, "too large for the receiver")]
        self._source.moved(cursor, batch, unwanted)
        if unwanted:
            self._tell(
                f"{len(unwanted)} audit records were refused by {self.settings.name}: {unwanted[0][1]}"
            )
        self._most = min(self.settings.batch, self._most * 2)
        return len(batch)

    def _failed(self, why: str, retry_after_s: float | None) -> float:
        self._failures += 1
        try:
            self._source.troubled(why)
        except LedgerTrouble:
            pass  # told below, and tried again
        if self._failures == 1:
            self._tell(f"audit records wait for {self.settings.name}, which {why}; none is lost")
        pause = min(PAUSE_MOST_S, PAUSE_S * 2 ** min(self._failures - 1, 10))
        return pause if retry_after_s is None else max(retry_after_s, PAUSE_S)


class Shipping:
    """All receivers of one ledger, each in its thread."""

    def __init__(
        self,
        audit: Path,
        sinks: tuple[SinkSettings, ...],
        tell: Callable[[str], None] = lambda sentence: None,
        source: Callable[[str], Source] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`source`: what a receiver of that name is to be sent, when it is not the file alone; `ended`: is called
        last."""
        self._stop, self._ended = threading.Event(), ended
        shipments = (Shipment(audit, sink, tell, source and source(sink.name)) for sink in sinks)
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=each.settings.name, daemon=True)
            for each in shipments
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """End when the batches on their way have been answered, or after that time. What is not sent waits."""
        self._stop.set()
        for thread in self._threads:
            thread.join(within_s)
        self._ended()

    def _run(self, shipment: Shipment) -> None:
        try:
            while not self._stop.wait(shipment.step()):
                pass
        finally:
            shipment.close()


def started(settings: ShipSettings, tell: Callable[[str], None]) -> Shipping:
    """All receivers of a ledger: of this gateway's file, or of the store that it shares with others."""
    audit = Path(settings.audit)
    if not settings.store:
        return Shipping(audit, settings.sinks, tell)
    from gemstead.ledger.postgres.cursors import Leases, StoreSource

    leases = Leases(lambda: settings.store, settings.holder, settings.lease_s)
    return Shipping(audit, settings.sinks, tell, lambda name: StoreSource(leases, audit, name), leases.end)
