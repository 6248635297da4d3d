"""Names that stand for many engines (`discover: dns`): which addresses each has, asked for anew every few seconds.

A headless Service of Kubernetes answers with one address for each pod that is ready. An address that appears is a new
endpoint and one that disappears is drained. No answer at all is not believed: a resolver that is restarted would
otherwise empty every pool, and an engine that is really gone fails its own probes within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gemstead.spec.model import Spec

NAMES_S = 5.0  # between two questions; CoreDNS lets an answer live for 5 s
ANSWER_S = 4.0  # for one answer
MOST = 512  # addresses of one name
log = logging.getLogger("gemstead")


async def resolved(host: str) -> tuple[str, ...]:
    """The addresses of a name; none when it has none or nobody answers."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return ()
    return tuple(sorted({str(row[4][0]) for row in found}))[:MOST]


@dataclass(slots=True)
class Names:
    """What is known of the names of a Spec."""

    ask: Callable[[str], Awaitable[tuple[str, ...]]] = resolved
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)

    async def look(self, hosts: Iterable[str]) -> bool:
        """Ask for all of them; whether anything has changed."""
        wanted = list(dict.fromkeys(hosts))
        answers = await asyncio.gather(*(self.ask(host) for host in wanted))
        before = dict(self.known)
        for host, addresses in zip(wanted, answers, strict=True):
            if addresses:
                self.known[host] = addresses
            elif self.known.setdefault(host, ()):
                log.info("%s has no address now; its last ones are kept", host)
        return self.known != before

    def of(self, host: str) -> tuple[str, ...]:
        """The addresses of a name, as last heard."""
        return self.known.get(host, ())


def hosts(spec: Spec) -> list[str]:
    """The names of a Spec that stand for many engines."""
    return [
        urlsplit(one.url).hostname or ""
        for model in spec.models
        for one in model.endpoints
        if one.discover == "dns"
    ]
