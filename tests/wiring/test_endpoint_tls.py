"""`models[].endpoints[].tls` as `gemstead serve` has it: probed and called with the certificate, clear when wrong."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import httpx2
import pytest
import trustme

from gemstead.gateway.trust import Trust
from gemstead.supervise.ask import HttpProbe
from gemstead.testing import FakeEngine
from gemstead.traffic.told import EngineTls
from gemstead.wiring.desired import _trust
from gemstead.wiring.secrets import CannotRun


def neighbour(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem + "_beside", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TESTS = Path(__file__).parents[1]
tls = neighbour(TESTS / "gateway" / "test_engine_tls.py")
FILE = """models:
  - name: mine
    endpoints:
      - url: "https://localhost:{port}"
        discover: dns
        tls: {{ca: "{files.ca}", certificate: "{files.certificate}", key: "{files.key}"}}
"""


async def test_an_engine_that_demands_a_certificate_is_found_ready_and_called(tmp_path):
    service = neighbour(TESTS / "flow" / "test_service.py")
    authority = trustme.CA()
    (tmp_path / "tls").mkdir()
    files = tls.write(authority, tmp_path / "tls")
    async with FakeEngine(tls=tls.demanding(authority, "localhost")) as engine:
        file = FILE.format(port=engine.port, files=files)
        with service.serving(tmp_path, demo=False, file=file) as running:
            await asyncio.to_thread(running.ready)
            headers = {"Authorization": f"Bearer {running.key}"}
            async with httpx2.AsyncClient(base_url=running.url, headers=headers, trust_env=False) as http:
                ask = {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}
                assert (await http.post("/v1/chat/completions", json=ask)).status_code == 200
        assert engine.probes
        assert engine.seen


async def test_a_probe_goes_on_with_renewed_certificates(tmp_path):
    before, after = trustme.CA(), trustme.CA()
    files = tls.write(before, tmp_path)
    async with FakeEngine(tls=tls.demanding(before)) as engine:
        probe = HttpProbe(tls.facing(engine, files), trust=Trust(files).context)
        assert await probe.healthy() == ""
        await engine.stop()
        engine.tls = tls.demanding(after)
        await engine.start()
        assert "certificate" in await probe.healthy() or "SSL" in await probe.healthy()
        tls.write(after, tmp_path)
        assert await probe.healthy() == ""


def test_a_key_of_another_certificate_is_said_before_anything_starts(tmp_path):
    files = tls.write(trustme.CA(), tmp_path)
    (tmp_path / "other").mkdir()
    other = tls.write(trustme.CA(), tmp_path / "other")
    with pytest.raises(CannotRun, match=r"models\[0\].*tls\.crt"):
        _trust(
            EngineTls(ca=files.ca, certificate=files.certificate, key=other.key), "models[0].endpoints[0].tls"
        )
