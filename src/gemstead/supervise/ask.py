"""One engine asked over HTTP: does it listen, does its model answer, does it make sense, what is it doing.

What to ask and how to read the answer is the engine's adapter's (`engines/`); this file waits for it. Every
question has a bound and comes back as a value: an engine that is broken in whatever way is an answer too.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from functools import partial

import httpx2

from gemstead.engines import ENGINES
from gemstead.engines.progress import progress
from gemstead.engines.proving import QUESTIONS, body, judged, lengths, warming
from gemstead.engines.size import ASKED, kv_tokens, said
from gemstead.plan.values import Launch
from gemstead.supervise.watched import ANSWERED_ERROR, CANNOT_ASK, Sight
from gemstead.traffic.endpoint import EndpointFacts

CONNECT_S = 2.0
ANSWER_S = 5.0  # llama.cpp gives its metrics between two steps, which may take seconds on a busy machine
QUESTION_S = 120.0  # a big model on a processor takes its time
SLEEP_S = 120.0  # weights go to the host's memory
LIMITS = httpx2.Limits(max_connections=4, max_keepalive_connections=0)  # a fresh connection proves more
CHAT = "/v1/chat/completions"
COMPILES = frozenset({"vllm", "sglang", "tensorrt_llm", "tgi"})  # kernels or graphs for each shape
# vLLM's sleep mode, level 1: weights to the host's memory, cache dropped (vllm 0.32, entrypoints/serve/sleep).
IS_SLEEPING, SLEEP, WAKE = "/is_sleeping", "/sleep?level=1", "/wake_up"


class HttpProbe:
    """Asks the engine at one address."""

    def __init__(
        self,
        facts: EndpointFacts,
        loads: tuple[tuple[str, dict[str, object]], ...] = (),
        drafts: bool = False,
        trust: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`loads`: requests that the engine wants once it is up, such as for its adapters; `drafts`: whether it has a
        drafter, whose figures are then read as well; `trust`: TLS with files of ours, as they are now."""
        self._drafts = drafts
        self._size: tuple[int, int] | None = None  # tokens of its cache and slots, once it was asked for them
        self._facts, self._adapter, self._loads = facts, ENGINES[facts.engine], loads
        self._trust, self._context = trust, None if trust is None else trust()
        self._client = self._connecting()

    @property
    def _http(self) -> httpx2.AsyncClient:
        """The client; another one when certificates have changed, since none of its connections are kept."""
        if self._trust is not None and (context := self._trust()) is not self._context:
            self._context = context
            self._client = self._connecting()
        return self._client

    def _connecting(self) -> httpx2.AsyncClient:
        facts = self._facts
        host = f"[{facts.host}]" if ":" in facts.host else facts.host
        return httpx2.AsyncClient(
            base_url=f"{'https' if facts.tls else 'http'}://{host}:{facts.port}{facts.base_path}",
            headers={"Authorization": f"Bearer {facts.api_key}"} if facts.api_key else {},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            limits=LIMITS,
            trust_env=False,
            verify=True if self._context is None else self._context,
            event_hooks={"request": [partial(_name, facts.tls_name)]} if facts.tls_name else {},
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
        path, content = self._adapter.readiness(self._facts.served_model)
        try:
            response = await self._post(path, content, within_s)
            if response.status_code != 200:
                refused = ANSWERED_ERROR if response.status_code >= 500 else "the first request was answered"
                return f"{refused} {response.status_code}: {response.text[:200]}"
            said = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            return _why(error)
        return "" if isinstance(said, dict) and said.get("choices") else "the first answer holds no choice"

    async def warm(self, within_s: float) -> str:
        """Send what the engine wants, then real prompts of several lengths; "" or what the engine refused.

        A warm-up that does not end in time is no fault: the caller who comes first waits for the rest.
        """
        ends = time.monotonic() + within_s
        try:
            for path, content in self._loads:
                response = await self._post(path, content, max(ends - time.monotonic(), 1.0))
                if response.status_code >= 400:
                    return f"{path} was answered {response.status_code}: {response.text[:200]}"
            for tokens in lengths(self._facts.context_tokens, self._facts.engine in COMPILES):
                if (left_s := ends - time.monotonic()) <= 0:
                    break
                await self._post(CHAT, warming(tokens, self._facts.served_model), left_s)
        except httpx2.HTTPError as error:
            return "" if isinstance(error, httpx2.TimeoutException) else _why(error)
        return ""

    async def prove(self, knows: bool, within_s: float) -> str:
        """What is wrong with its answers to known questions; "" when nothing is.

        Begins with ANSWERED_ERROR or CANNOT_ASK when there are no answers to judge.
        """
        answers = []
        for question in QUESTIONS:
            try:
                asked = body(question, self._facts.served_model)
                response = await self._post(CHAT, asked, min(within_s, QUESTION_S))
                if response.status_code >= 500:
                    return f"{ANSWERED_ERROR} {response.status_code}: {response.text[:200]}"
                if response.status_code >= 400:
                    return f"{CANNOT_ASK}: {response.status_code}: {response.text[:200]}"
                answers.append(_text(response.json()))
            except (httpx2.HTTPError, ValueError) as error:
                return f"{CANNOT_ASK}: {_why(error)}"
        return judged(answers, knows=knows)

    async def look(self) -> Sight:
        """Its load and progress as its metrics say."""
        if not self._adapter.METRICS_PATH:
            return Sight()
        try:
            response = await self._http.get(self._adapter.METRICS_PATH)
        except httpx2.HTTPError:
            return Sight()
        if response.status_code != 200:
            return Sight()
        text = response.text
        gauges = self._adapter.read_gauges(text) if self._drafts else {}
        load = self._adapter.read_load(text, time.monotonic())
        if not (tokens := kv_tokens(text)) and self._size is None and self._facts.engine in ASKED:
            self._size = await self._asked()
        held, slots = self._size or (0, 0)
        return Sight(
            load, progress(text), gauges.get("drafted"), gauges.get("accepted"), tokens or held, slots
        )

    async def _asked(self) -> tuple[int, int] | None:
        """How much it holds, by its own word; None: it did not answer, and is asked again."""
        try:
            response = await self._http.get(ASKED[self._facts.engine])
            return said(self._facts.engine, response.json()) if response.status_code == 200 else (0, 0)
        except (httpx2.HTTPError, ValueError):
            return None

    async def ask(self, path: str, content: dict[str, object], within_s: float) -> str:
        """Ask it for something: "" when it is done, else what it said."""
        try:
            response = await self._post(path, content, within_s)
        except httpx2.HTTPError as error:
            return _why(error)
        return "" if response.status_code < 400 else f"{response.status_code}: {response.text[:300]}"

    async def can_sleep(self) -> bool:
        """Whether the engine itself can sleep: it offers the endpoints of vLLM's sleep mode."""
        try:
            return (await self._http.get(IS_SLEEPING)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def sleep(self) -> bool:
        """Have it give its memory back; False when it does not."""
        return await self._done(SLEEP)

    async def wake(self) -> bool:
        """Have it take its memory again; False when it does not."""
        return await self._done(WAKE)

    async def _done(self, path: str) -> bool:
        try:
            return (await self._post(path, {}, SLEEP_S)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def _post(self, path: str, content: dict[str, object], within_s: float) -> httpx2.Response:
        patience = httpx2.Timeout(within_s, connect=CONNECT_S)
        return await self._http.post(path, json=content, timeout=patience)


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
            context_tokens=launch.context_tokens,
            api_key=launch.api_key,
        ),
        launch.loads,
        launch.draft_tokens > 0,
    )


async def _name(name: str, request: httpx2.Request) -> None:
    """Have the certificate checked for this name: the address is one of many that it stands for."""
    request.extensions["sni_hostname"] = name


def _text(said: object) -> str:
    """The first choice's text; "" when there is none. Thoughts are not the answer."""
    if isinstance(said, dict) and isinstance(choices := said.get("choices"), list) and choices:
        message = choices[0].get("message") if isinstance(choices[0], dict) else None
        if isinstance(message, dict):
            return str(message.get("content") or "")
    return ""


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
