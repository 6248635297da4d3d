"""Two gateways on one PostgreSQL, as users run them: two services, one real server, engines that are pretended."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from gemstead.testing import FakeEngine

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ledger"), str(HERE.parent / "ledger" / "counters")]

from receivers import Hec  # noqa: E402
from servers import postgres_bin, postgres_server  # noqa: E402
from test_service import serving, wait_until  # noqa: E402

from gemstead.ledger.postgres.link import linked  # noqa: E402

pytestmark = pytest.mark.skipif(postgres_bin() is None, reason="PostgreSQL is not installed")

FILE = """
models:
  - name: mine
    endpoints: [{{url: "{engine}"}}]
ledger:
  store: "file:{folder}/store.url"
  secret: "file:{folder}/store.secret"
  node: {node}
audit:
  ship:
    - {{name: siem, to: splunk, url: "{siem}", token: "file:{folder}/siem.token", acknowledge: false, form: ecs}}
limits:
  rules:
    - {{name: capped, tenant: capped, requests_per_day: 5}}
"""
ASK = {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}


def private(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


class Gateway:
    """A service, and what it says of a call."""

    def __init__(self, service, node: str) -> None:
        self.service, self.node = service, node
        self.url = service.find(r"gateway on (http://\S+?),")
        service.find("Ready after")

    def call(self, key: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.post(
            f"{self.url}/v1/chat/completions", json=ASK, headers=headers, trust_env=False, timeout=20
        )

    def said(self, *words: str) -> str:
        done = self.service.gemstead(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def new_key(self, *options: str) -> tuple[str, str]:
        made = json.loads(self.said("keys", "create", "--json", *options))
        return made["key"], made["key_id"]

    def admin(self, method: str, path: str, said: object = None) -> httpx2.Response:
        card = json.loads((self.service.state / "running.json").read_text())
        headers = {"Authorization": f"Bearer {card['token']}"}
        return httpx2.request(
            method, card["admin"] + path, json=said, headers=headers, trust_env=False, timeout=30
        )

    def store(self) -> dict:  # as `gemstead ps` does, and cheaper
        return self.admin("GET", "/admin/status").json()["store"]

    def ordered(self, key: str) -> str:
        """The id of a batch of three lines."""
        line = {"method": "POST", "url": "/v1/chat/completions", "body": ASK}
        file = "\n".join(json.dumps({"custom_id": f"c{n}", **line}) for n in range(3)).encode()
        said = {"headers": {"Authorization": f"Bearer {key}"}, "trust_env": False, "timeout": 20}
        made = httpx2.post(
            f"{self.url}/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", file)}, **said
        )
        order = {"input_file_id": made.json()["id"], "endpoint": line["url"], "completion_window": "24h"}
        return httpx2.post(f"{self.url}/v1/batches", json=order, **said).json()["id"]

    def batch_of(self, batch_id: str, key: str) -> dict:
        """The batch, once it is completed and its answers can be read here."""
        said = {"headers": {"Authorization": f"Bearer {key}"}, "trust_env": False, "timeout": 20}
        batch: dict = {}

        def completed() -> bool:
            batch.update(httpx2.get(f"{self.url}/v1/batches/{batch_id}", **said).json())
            return batch.get("status") == "completed"

        wait_until(completed, 20)
        answers = httpx2.get(f"{self.url}/v1/files/{batch['output_file_id']}/content", **said).text
        assert [json.loads(one)["custom_id"] for one in answers.splitlines()] == ["c0", "c1", "c2"]
        return batch

    def until_settled(self) -> None:
        wait_until(lambda: self.store().get("up") and self.store()["waiting"] == 0, 20)


def begin(held: ExitStack, tmp_path: Path, node: str, engine: str, siem: str) -> object:
    folder = tmp_path / node
    folder.mkdir(exist_ok=True)
    file = FILE.format(engine=engine, folder=tmp_path, node=node, siem=siem)
    return held.enter_context(serving(folder, demo=False, file=file))


def seconds_until(holds, within_s: float) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
    return time.monotonic() - began


async def test_two_gateways_are_one_service(tmp_path, record_property):
    async with FakeEngine() as engine:
        await asyncio.to_thread(story, tmp_path, engine.url, record_property)


def story(tmp_path: Path, engine: str, record_property) -> None:
    with ExitStack() as held:
        server = held.enter_context(postgres_server())
        private(tmp_path / "store.url", server.url)
        private(tmp_path / "store.secret", "x" * 40)
        private(tmp_path / "siem.token", "right-token")
        siem = Hec()
        held.callback(siem.close)
        a, b = (
            Gateway(service, node)
            for node, service in [
                (node, begin(held, tmp_path, node, engine, siem.url)) for node in ("east", "west")
            ]
        )
        firsts = [one.service.said.count("shown only now") for one in (a, b)]
        assert sorted(firsts) == [0, 1], "of two that begin at once, one makes the first key"
        calls = 0

        # A key made through one works in the other, and is refused there as soon as it is revoked.
        key, key_id = a.new_key()
        assert a.call(key).status_code == 200  # at once where it was made
        made_s = seconds_until(lambda: b.call(key).status_code == 200, 1.0)
        began = time.monotonic()
        asked = subprocess.Popen(
            [sys.executable, "-m", "gemstead", "keys", "revoke", key_id, "--set", f"state_dir={a.service.state}"],
            cwd=a.service.folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while b.call(key).status_code == 200:
            assert time.monotonic() - began < 30
            calls += 1
        seen_at = time.time()
        assert asked.wait(30) == 0
        revoked_at = json.loads(a.said("keys", "show", "--json", key_id))["revoked_at"]
        lag_s = seen_at - revoked_at
        print(f"\na new key known elsewhere after {made_s:.3f} s, a revoked one refused after {lag_s:.3f} s")
        record_property("revocation_s", lag_s)
        assert lag_s <= 1.0
        assert a.call(key).status_code == 401

        # A budget is one for both.
        capped, _ = b.new_key("--tenant", "capped")
        wait_until(lambda: a.call(capped).status_code != 401, 5)
        codes = [one.call(capped).status_code for one in (a, b) * 5]
        assert codes.count(200) in (3, 4, 5) and codes[-2:] == [429, 429]
        a.until_settled()
        rows = json.loads(b.said("usage", "--by", "tenant", "--json"))["rows"]
        assert {"capped", "default"} <= {row["by"]["tenant"] for row in rows}

        # A batch that was ordered through one is told of by the other, and its answers lie there too.
        ended = b.batch_of(a.ordered(free_key := a.new_key()[0]), free_key)
        assert ended["request_counts"] == {"total": 3, "completed": 3, "failed": 0}

        # Over the admin port of either: keys of both, and the chains of both.
        made = a.admin("POST", "/admin/keys", {"tenant": "api"}).json()
        assert a.call(made["key"]).status_code == 200
        assert b.admin("DELETE", f"/admin/keys/{made['key_id']}").json()["state"] == "revoked"
        wait_until(lambda: a.call(made["key"]).status_code == 401, 5)
        for one in (a, b):
            one.until_settled()
        whole = a.admin("GET", "/admin/audit/verify").json()
        assert whole["intact"] and len(whole["chains"]) == 2
        found = b.admin("GET", "/admin/audit?records=acts&action=key.create").json()["records"]
        assert made["key_id"] in [one["act"]["target"] for one in found]
        assert b.admin("GET", "/admin/audit/export?tenant=api").text.count('"form"') == 2

        # The store goes: calls go on, with the keys that are known; a gateway even starts again.
        free, _ = a.new_key()
        wait_until(lambda: b.call(free).status_code == 200, 5)
        for one in (a, b):
            one.until_settled()
        server.kill(signal.SIGKILL)
        served = [one.call(free) for one in (a, b) * 10]
        assert {one.status_code for one in served} == {200}
        wait_until(lambda: not a.store()["up"], 10)
        admin = a.service.find(r"admin on (http://\S+)")
        assert "gemstead_store_up 0" in httpx2.get(f"{admin}/metrics", trust_env=False).text
        assert "store: away since" in a.said("ps")
        assert a.service.gemstead("keys", "create").returncode == 1
        for method, path in (
            ("POST", "/admin/keys"),
            ("GET", "/admin/audit"),
            ("GET", "/admin/access-review"),
        ):
            away = a.admin(method, path, {} if method == "POST" else None)
            assert away.status_code == 503 and "the store" in away.json()["error"], away.text
        assert a.admin("GET", "/admin/audit/verify").status_code == 409
        b.service.process.send_signal(signal.SIGTERM)
        b.service.process.wait(30)
        b = Gateway(begin(held, tmp_path, "west", engine, siem.url), "west")
        assert "this gateway begins with the keys as they were on" in b.service.said
        served += [b.call(free) for _ in range(5)]
        assert {one.status_code for one in served} == {200}

        # It is back: what was done meanwhile is there, nothing twice, and every chain holds.
        server.start()
        for one in (a, b):
            one.until_settled()
        owed = {one.headers["x-request-id"] for one in served}

        def there() -> list[str]:
            lines = a.said("audit", "tail", "-n", "10000", "--json").splitlines()
            return [json.loads(line)["call_id"] for line in lines]

        wait_until(lambda: owed <= set(there()), 10)
        assert len(there()) == len(set(there()))
        verified = json.loads(b.said("audit", "verify", "--json"))
        assert {one["fault"] for one in verified} == {None}
        assert len(verified) == 2
        lines = a.said("audit", "export", "--from", "1h")
        (tmp_path / "all.jsonl").write_text(lines)
        said = a.said("audit", "verify", "--export", str(tmp_path / "all.jsonl"))
        assert said.count("are as they were written") == 2

        # Receivers have all of it, of both chains; most of it once.
        def owed_to_siem() -> set[str]:
            with linked(server.url) as link:
                rows = link.rows(
                    "SELECT chain, seq FROM gemstead_audit UNION SELECT chain, seq FROM gemstead_acts"
                )
            return {f"{chain}-{seq}" for chain, seq in rows}

        def has() -> list[str]:
            return [f"{one['event']['event']['id']}" for one in siem.events]

        wait_until(lambda: owed_to_siem() <= set(has()), 30)

        # Ended in order, nothing stays behind on a disk that may go.
        last = [one.call(free).headers["x-request-id"] for one in (a, b)]
        for one in (a, b):
            one.service.process.send_signal(signal.SIGTERM)
            one.service.process.wait(30)
            shutil.rmtree(one.service.state)
        c = Gateway(begin(held, tmp_path, "north", engine, siem.url), "north")
        assert c.call(free).status_code == 200
        ids = [
            json.loads(line)["call_id"]
            for line in c.said("audit", "tail", "-n", "10000", "--json").splitlines()
        ]
        assert set(last) <= set(ids)
        verified = json.loads(c.said("audit", "verify", "--json"))
        assert [one["fault"] for one in verified] == [None] * 3
