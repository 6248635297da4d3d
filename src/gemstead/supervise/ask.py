"""One engine asked over HTTP: does it listen, does its model answer, is it well, what is it doing.

What to ask and how to read the answer is the engine's adapter's (`engines/`); this file waits for it. Every
question has a bound and comes back as a value: an engine that is broken in whatever way is an answer too.
"""

from __future__ import annotations

import time

import httpx2

from gemstead.engines import ENGINES
from gemstead.engines.progress import progress
from gemstead.plan.values import Launch
from gemstead.supervise.replica import Sight
from gemstead.traffic.endpoint import EndpointFacts

CONNECT_S = 2.0
ANSWER_S = 5.0  # llama.cpp gives its metrics between two steps, which may take seconds on a busy machine
LIMITS = httpx2.Limits(max_connections=4, max_keepalive_connections=0)  # a fresh connection proves more


class HttpProbe:
    """Asks the engine at one address."""

    def __init__(self, facts: EndpointFacts) -> None:
        self._facts, self._adapter = facts, ENGINES[facts.engine]
        host = f"[{facts.host}]" if ":" in facts.host else facts.host
        self._http = httpx2.AsyncClient(
            base_url=f"{'https' if facts.tls else 'http'}://{host}:{facts.port}{facts.base_path}",
            headers={"Authorization": f"Bearer {facts.api_key}"} if facts.api_key else {},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            limits=LIMITS,
            trust_env=False,
        )

    async def listening(self) -> bool:
        """Whether the port speaks HTTP; a 503 while the model loads counts."""
        try:
            await self._http.get(self._adapter.HEALTH_PATH)
        except httpx2.HTTPError:
            return False
        return True

    async def healthy(self) -> str:
        """Nothing when the health path says so, else why not."""
        try:
            response = await self._http.get(self._adapter.HEALTH_PATH)
        except httpx2.HTTPError as error:
            return _why(error)
        return (
            "" if response.status_code == 200 else f"{self._adapter.HEALTH_PATH} says {response.status_code}"
        )

    async def answers(self, within_s: float) -> str:
        """Nothing once the model has given a real answer, else why not."""
        if why := await self.healthy():
            return why
        path, body = self._adapter.readiness(self._facts.served_model)
        try:
            response = await self._http.post(
                path, json=body, timeout=httpx2.Timeout(within_s, connect=CONNECT_S)
            )
            if response.status_code != 200:
                return f"the first request was answered {response.status_code}: {response.text[:200]}"
            said = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            return _why(error)
        return "" if isinstance(said, dict) and said.get("choices") else "the first answer holds no choice"

    async def look(self) -> Sight:
        """Its load and progress as its metrics say."""
        try:
            response = await self._http.get(self._adapter.METRICS_PATH)
        except httpx2.HTTPError:
            return Sight()
        if response.status_code != 200:
            return Sight()
        text = response.text
        return Sight(self._adapter.read_load(text, time.monotonic()), progress(text))


def probe_of(launch: Launch) -> HttpProbe:
    """The probe of a process of ours."""
    return HttpProbe(
        EndpointFacts(
            name=launch.name,
            pool=launch.pool,
            host=launch.host,
            port=launch.port,
            engine=launch.engine,
            served_model=launch.served_model,
            api_key=launch.api_key,
        )
    )


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
