"""Look at the metrics of many endpoints, each once in a while: what they say of their load, and whether they answer.

Unlike `ask.py`, which proves one engine with a fresh connection each time, this is made for many that are asked all
the time: connections are kept, and a few are asked at once. An endpoint that does not answer says nothing: its last
load grows stale, and the picker draws its conclusions from that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx2
import msgspec

from gemstead.engines import ENGINES
from gemstead.engines.size import kv_tokens
from gemstead.traffic.endpoint import EndpointFacts, Load

AT_ONCE = 16
ANSWER_S = 2.0
PAGE_MOST = 8 << 20
# vllm:lora_requests_info{...,running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.7e9: the newest counts
LORA = re.compile(r"^vllm:lora_requests_info\{([^}]*)\} ([0-9.e+]+)", re.MULTILINE)
ADAPTERS = re.compile(r'(?:running|waiting)_lora_adapters="([^"]*)"')


@dataclass(slots=True)
class Round:
    """What one round has brought, by endpoint name."""

    loads: dict[str, Load] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)  # whoever answered at all
    silent: set[str] = field(default_factory=set)
    kv_tokens: dict[str, int] = field(
        default_factory=dict
    )  # of the engines that say how much their cache holds


class Scraper:
    """Asks in rounds. `run` returns only when it is cancelled."""

    def __init__(
        self,
        every_s: float,
        endpoints: Callable[[], Iterable[EndpointFacts]],
        took: Callable[[Round], None],
    ) -> None:
        self._every_s, self._endpoints, self._took = every_s, endpoints, took
        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(ANSWER_S, pool=None),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=4.0),
            trust_env=False,
            verify=False,  # engines inside a cluster; nothing is told them
        )

    async def run(self) -> None:
        try:
            while True:
                began = time.monotonic()
                await self.round()
                await asyncio.sleep(max(self._every_s - (time.monotonic() - began), 0.05))
        finally:
            await self._http.aclose()

    async def round(self) -> None:
        """Ask everybody once."""
        gate, found = asyncio.Semaphore(AT_ONCE), Round()
        await asyncio.gather(*(self._ask(facts, gate, found) for facts in self._endpoints()))
        self._took(found)

    async def _ask(self, facts: EndpointFacts, gate: asyncio.Semaphore, found: Round) -> None:
        adapter = ENGINES[facts.engine]
        path = adapter.METRICS_PATH or adapter.HEALTH_PATH
        host = f"[{facts.host}]" if ":" in facts.host else facts.host
        async with gate:
            try:
                answer = await self._http.get(
                    f"{'https' if facts.tls else 'http'}://{host}:{facts.port}{path}"
                )
            except httpx2.HTTPError:
                found.silent.add(facts.name)
                return
        found.heard.add(facts.name)
        if answer.status_code != 200 or not adapter.METRICS_PATH or len(answer.content) > PAGE_MOST:
            return
        text = answer.text
        load: Load = adapter.read_load(text, time.monotonic())
        if load.running is None and load.waiting is None and load.kv_used is None:
            return  # a page of something else
        names = adapters(text)
        found.loads[facts.name] = load if names is None else msgspec.structs.replace(load, adapters=names)
        if tokens := kv_tokens(text):
            found.kv_tokens[facts.name] = tokens


def adapters(text: str) -> tuple[str, ...] | None:
    """The LoRA adapters that a vLLM page names; None when it names none at all."""
    newest = max(LORA.finditer(text), key=lambda found: float(found[2]), default=None)
    if newest is None:
        return None
    named = [name for group in ADAPTERS.findall(newest[1]) for name in group.split(",") if name]
    return tuple(dict.fromkeys(named))
