"""Tokens of a real OpenID provider at real workers: fetched keys, new keys, a provider that is down, denials."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager

import httpx2
import pytest

from gemstead.gateway.settings import GatewaySettings, Pool
from gemstead.ledger.keys import Denial, Grant, open_keys
from gemstead.operate import oidc
from gemstead.spec.identity import IdentitySpec
from gemstead.supervise.logs import RotatedLog
from gemstead.testing import FakeEngine, Script, words
from gemstead.wiring.addresses import reserve
from gemstead.wiring.gateway import GatewayWorkers
from gemstead.wiring.identity import Keeper, identity, providers
from gemstead.wiring.secrets import resolver

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PEPPER = b"p" * 32


def spec(issuer, **more):
    return IdentitySpec.model_validate(
        {
            "issuers": (
                {
                    "name": "corp",
                    "issuer": issuer,
                    "audience": ("gemstead",),
                    "claims": {"tenant": "org"},
                    "grants": ({"group": "ml-services", "role": "service"},),
                    "refetch_s": 0.5,
                    "strict": True,
                    **more,
                },
            )
        }
    )


class Door:
    """Two workers, and the head's part that keeps keys."""

    def __init__(self, url, keeper, keys, troubles, came):
        self.url, self.keeper, self.keys, self.troubles = url, keeper, keys, troubles
        self.came = came  # whom workers told of

    async def ask(self, token, path="/v1/chat/completions"):
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            headers = {"Authorization": f"Bearer {token}"}
            if path == "/v1/models":
                return await http.get(self.url + path, headers=headers)
            return await http.post(self.url + path, headers=headers, json=ASK)

    async def patiently(self, token, deadline):
        """As official clients ask: again while told to come back (the workers look for keys anew every refetch_s)."""
        while (answer := await self.ask(token)).status_code == 503 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return answer

    async def until(self, token, status, within_s=20.0):
        """Every worker gives this status: six fresh connections in a row, which SO_REUSEPORT spreads."""
        deadline = time.monotonic() + within_s
        while True:
            answers = [await self.patiently(token, deadline) for _ in range(6)]
            if {answer.status_code for answer in answers} == {status}:
                return answers[-1]
            assert time.monotonic() < deadline, [(a.status_code, a.text) for a in answers]
            await asyncio.sleep(0.05)


@asynccontextmanager
async def door(tmp_path, made):
    held = reserve("127.0.0.1", 0)
    keys, troubles, came = open_keys(tmp_path / "keys.db", PEPPER), [], []
    keys.create(Grant(), now=time.time())
    async with FakeEngine(Script(pieces=words(3))) as engine:
        settings = GatewaySettings(
            host="127.0.0.1",
            port=held[0].getsockname()[1],
            workers=2,
            pools=(Pool(name="m"),),
            endpoints=(engine.facts("a", pool="m"),),
            keys_path=str(tmp_path / "keys.db"),
            pepper=PEPPER.hex(),
            identity=identity(made),
        )
        workers = GatewayWorkers(
            settings,
            lambda name: RotatedLog(tmp_path / f"{name}.log", most_bytes=1 << 20, files=2),
            troubles.append,
        )
        keeper = Keeper(workers.tell_signing, troubles.append)
        workers.on_unknown_key = keeper.unknown_key
        workers.on_caller_seen = came.append
        workers.start()
        keeper.configure(providers(made, resolver(os.environ)))
        try:
            async with asyncio.timeout(20):
                while not all(seat.listening for seat in workers.seats.values()):
                    await asyncio.sleep(0.02)
            yield Door(f"http://127.0.0.1:{settings.port}", keeper, keys, troubles, came)
        finally:
            keeper.close()
            await workers.drain(5)
            for sock in held:
                sock.close()


async def test_tokens_of_a_real_provider(provider, tmp_path):
    token = provider.machine_token()
    async with door(tmp_path, spec(provider.issuer)) as gate:
        await gate.until(token, 200)
        assert {(one.who, one.kind, one.roles) for one in gate.came} == {
            ("corp:machine", "token", ("service",))
        }
        assert (await gate.ask(provider.machine_token(), "/v1/models")).status_code == 200
        assert "aud" in (await gate.ask(provider.machine_token(resource="urn:other"))).text
        assert (await gate.ask(token[:-4] + "AAAA")).status_code == 401

        provider.do("rotate")  # a key that nobody has seen: looked for, and then believed
        fresh = provider.machine_token()
        refusal = await gate.ask(fresh)
        assert refusal.status_code in (200, 503)
        if refusal.status_code == 503:
            assert refusal.headers["retry-after"] == "1"
        await gate.until(fresh, 200)
        assert (await gate.ask(token)).status_code in (401, 503)  # the key it was signed with is withdrawn
        await gate.until(token, 401)

        provider.do("hide")  # the provider's keys cannot be had: the old ones go on counting
        await asyncio.sleep(0.6)  # beyond refetch_s, which is real time in the workers
        await gate.ask(token)
        async with asyncio.timeout(5):
            while not gate.troubles:
                await asyncio.sleep(0.02)
        assert "old ones go on counting" in gate.troubles[0]
        assert (await gate.ask(fresh)).status_code == 200
        provider.do("show")

        began = time.monotonic()  # a denial holds everywhere at once
        gate.keys.deny(Denial(issuer="corp", kind="subject", value="machine", at=time.time()))
        for _ in range(6):
            answer = await gate.ask(fresh)
            assert answer.status_code == 401 and "revoked" in answer.text
        assert time.monotonic() - began < 5
        gate.keys.lift("corp", "subject", "machine")
        assert (await gate.ask(fresh)).status_code == 200


async def test_while_a_provider_cannot_be_reached_callers_are_told_to_try_again(provider, tmp_path):
    token = provider.machine_token()
    provider.do("hide")
    async with door(tmp_path, spec(provider.issuer)) as gate:
        answer = await gate.ask(token)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "identity_pending"
        provider.do("show")
        await gate.until(token, 200)
        assert [sentence for sentence in gate.troubles if "here again" in sentence]


async def test_a_discovery_document_of_another_is_refused(provider):
    other = spec(provider.issuer + "/", discovery_url=provider.issuer + "/.well-known/openid-configuration")
    [one] = providers(other, resolver({}))
    async with oidc.client(one) as http:
        with pytest.raises(oidc.ProviderTrouble, match="exactly as it calls itself"):
            await oidc.discover(one, http)
