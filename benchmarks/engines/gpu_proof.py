"""On a host with a card: does vLLM start on a Gemma 4 of the real shape as planned, with the memory that was
planned?

    python -m benchmarks.engines.gpu_proof --model 31B --out docs/measured/gpu-31b.json

The weights are dummies (`--load-format dummy`), so nothing is downloaded: sizes, layers and head sizes are the
catalogue's, and memory and speed depend on nothing else; what it writes is noise. It goes through the front door:
`gemstead serve` with a gemstead.yaml, the engine that `gemstead engines install vllm` put there, and then asks for
what the engine reports of its cache (`gemstead ps`), what the cards hold (nvidia-smi) and how fast answers come,
alone and many at once.

Without a card, a driver or the engine it says so and ends with code 77, which test runners read as skipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from gemstead.catalog.models import ModelFacts, models

TINY = Path(__file__).parents[2] / "tests" / "data" / "checkpoints" / "tiny-gemma-4-31B-it"
SKIPPED = 77
TOKENS = 256
GEMSTEAD = [sys.executable, "-m", "gemstead"]


def main(arguments: list[str] | None = None) -> int:
    """Run the proof; 0 proven, 1 not, 77 skipped."""
    args = parser().parse_args(arguments)
    facts = next(one for one in models() if one.size == args.model)
    with tempfile.TemporaryDirectory(prefix="gemstead-proof-") as name:
        folder = Path(name)
        write_checkpoint(facts, folder / "checkpoint")
        if why := cannot(args):
            print(f"skipped: {why}")
            return SKIPPED
        found = proof(facts, folder, args)
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    return 0 if found["ready"] else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.gpu_proof", description=__doc__.partition("\n")[0]
    )
    dense = [one.size for one in models() if one.shape.k_eq_v and not one.shape.per_layer_embedding]
    made.add_argument(
        "--model", choices=dense, default="31B", help="whose shape (those without embeddings per layer)"
    )
    made.add_argument("--context", type=int, default=32_768, help="longest prompt with its answer")
    made.add_argument("--tensor-parallel", type=int, default=1)
    made.add_argument("--many", type=int, default=32, help="callers at once, after one alone")
    made.add_argument(
        "--state", type=Path, help="state folder in which vLLM is installed; default: the usual one"
    )
    made.add_argument("--start-s", type=float, default=900)
    made.add_argument("--out", type=Path, help="where the result is written, as JSON")
    return made


def cannot(args: argparse.Namespace) -> str:
    """Why it cannot be run here; empty: it can."""
    if shutil.which("nvidia-smi") is None or not cards():
        return "there is no NVIDIA card with a working driver here (nvidia-smi)"
    words = [*GEMSTEAD, "engines", "path", "vllm", *state_of(args)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else f"{done.stderr.strip()}: gemstead engines install vllm"


def proof(facts: ModelFacts, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What was planned, started and measured."""
    state = folder / "state"
    state.mkdir()
    home = args.state or Path.home() / ".local" / "state" / "gemstead"
    (state / "engines").symlink_to(home.expanduser().absolute() / "engines")
    (folder / "gemstead.yaml").write_text(document(facts, folder / "checkpoint", args))
    free_before = cards()
    began = time.monotonic()
    with (folder / "serve.out").open("wb") as output:
        service = subprocess.Popen(
            [*GEMSTEAD, "serve", "--set", f"state_dir={state}"], cwd=folder, stdout=output, stderr=output
        )
    found: dict[str, Any] = {"model": facts.size, "weights": "dummy", "ready": False, "cards": free_before}
    try:
        endpoint = wait(state, service, args.start_s)
        found["start_s"] = round(time.monotonic() - began, 1)
        if endpoint is None:
            logs = sorted((state / "logs").glob("*.log"))
            found["log"] = [
                line for log in logs for line in log.read_text(errors="replace").splitlines()[-20:]
            ]
            return found
        card = json.loads((state / "running.json").read_text())
        found |= {"ready": True, "cards_loaded": cards(), "endpoint": endpoint}
        found["planned_against_reported_kv_tokens"] = [endpoint["kv_tokens_planned"], endpoint["kv_tokens"]]
        found["tokens_per_s"] = {n: speed(card["gateway"], facts.name, n) for n in (1, args.many)}
        return found
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(120)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def document(facts: ModelFacts, checkpoint: Path, args: argparse.Namespace) -> str:
    """The gemstead.yaml of the proof."""
    model = {
        "name": facts.name,
        "engine": "vllm",
        "checkpoint": str(checkpoint),
        "replicas": 1,
        "context": args.context,
        "tensor_parallel": args.tensor_parallel,
        "draft": "off",
        "flags": ["--load-format dummy"],
    }
    local = "127.0.0.1:0"
    return json.dumps(
        {"models": [model], "gateway": {"listen": local, "keys": "off"}, "admin": {"listen": local}}
    )


def wait(state: Path, service: subprocess.Popen[bytes], seconds: float) -> dict[str, Any] | None:
    """The replica, once it is ready; None when it never was."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and service.poll() is None:
        words = [*GEMSTEAD, "ps", "--json", "--set", f"state_dir={state}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            ready = [one for one in json.loads(done.stdout)["endpoints"] if one["ready"]]
            if ready:
                return dict(ready[0])
        time.sleep(1)
    return None


def speed(url: str, model: str, callers: int) -> float:
    """Tokens of answers in a second, all callers together."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }

    def once(_number: int) -> int:
        with httpx2.Client(trust_env=False, timeout=300) as client:
            answer = client.post(f"{url}/v1/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

    once(0)
    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        tokens = sum(pool.map(once, range(callers)))
    return round(tokens / (time.monotonic() - began), 1)


def cards() -> list[dict[str, str]]:
    """Every card, with the memory that is taken."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,memory.used,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = ("name", "total", "used", "driver")
    return (
        [dict(zip(names, line.split(", "), strict=False)) for line in done.stdout.splitlines()]
        if done.returncode == 0
        else []
    )


def state_of(args: argparse.Namespace) -> list[str]:
    """The option that names the state folder."""
    return ["--set", f"state_dir={args.state}"] if args.state else []


def write_checkpoint(facts: ModelFacts, folder: Path) -> None:
    """A checkpoint without weights: the tiny one's tokenizer and template, and the model's own sizes."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = facts.shape
    config = json.loads((folder / "config.json").read_text())
    each = shape.layers // shape.layers_full  # every one of so many layers, the last, looks at everything
    config["text_config"] |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "layer_types": [
            "full_attention" if number % each == each - 1 else "sliding_attention"
            for number in range(shape.layers)
        ],
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads_sliding,
        "num_global_key_value_heads": shape.kv_heads_full,
        "head_dim": shape.head_dim_sliding,
        "global_head_dim": shape.head_dim_full,
        "sliding_window": shape.window,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": facts.context_tokens,
        "attention_k_eq_v": shape.k_eq_v,
    }
    if shape.moe is not None:
        config["text_config"] |= {
            "enable_moe_block": True,
            "num_experts": shape.moe.experts,
            "top_k_experts": shape.moe.top_k,
            "moe_intermediate_size": shape.moe.expert_intermediate,
        }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    sys.exit(main())
