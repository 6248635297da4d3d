"""The TLS settings of a receiver: 1.2 or later, its certificate always checked."""

from __future__ import annotations

import ssl

from gemstead.ledger.ship.sink import SinkSettings


def context(settings: SinkSettings) -> ssl.SSLContext:
    """A client's context with the sink's CA, or the system's, and its client certificate."""
    made = ssl.create_default_context(cafile=settings.ca or None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate:
        made.load_cert_chain(settings.certificate, settings.key)
    return made
