"""What an engine's start-up log says of its memory, in one set of words for three engines.

The words change between versions, so each fact is looked for in all the words that were ever used for it, and what a
log does not say stays None. What is said first stands; of what each rank says, the smallest pool and the largest
graphs. What to make of it is told in `from_log.py`. The text is read by whoever has the file.

Words: vllm 0.19 to 0.32, v1/worker/gpu_worker.py and v1/core/kv_cache_utils.py; sglang 0.5.12,
model_executor/model_runner.py, pool_configurator.py and managers/scheduler.py; llama.cpp build 11549.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gemstead.plan.setup import GIB
from gemstead.refused import Reason, Refused

MIB = 1 << 20
MOST_CHARACTERS = 8 << 20  # a start-up is told in the first megabytes of a log


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What a log says; None or empty: it does not. Sizes are bytes of one card (llama.cpp: of all)."""

    engine: str  # vllm | sglang | llamacpp
    version: str = ""
    model: str = ""
    context: int | None = None
    tp: int | None = None
    utilisation: float | None = None
    batched_tokens: int | None = None
    requests: int | None = None
    kv_dtype: str = ""
    async_scheduling: bool | None = None
    eager: bool | None = None
    text_only: bool | None = None
    arguments: bool | None = (
        None  # the line with all arguments is there: what it does not name is the default
    )
    drafter: str = ""
    swa_ratio: float | None = None
    weights_bytes: int | None = None  # with the drafter, when it was loaded with them
    kv_pool_bytes: int | None = None
    kv_tokens: int | None = None
    concurrency: float | None = None
    graph_bytes: int | None = None
    needed_bytes: int | None = None  # from a refusal: what the longest request would have needed
    longest: int | None = None  # from a refusal: the longest that would have fitted
    failure: str = ""  # the line that says why it did not start
    lines: tuple[str, ...] = ()  # the lines that these facts were read from


Read = Callable[[str], object]
Words = tuple[tuple[str, str, Read], ...]  # fact, regular expression with one group, how it is read


def _count(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))


def _gib(text: str) -> int:
    return int(float(text) * GIB)


def _mib(text: str) -> int:
    return int(float(text) * MIB)


def _true(text: str) -> bool:
    return text == "True"


def _yes(_: str) -> bool:
    return True


def _said(text: str) -> str:
    return text.strip()


VLLM: Words = (
    ("version", r"(?:LLM engine \(v|server version |\bversion )(\d+\.\d+[\w.+]*)", _said),
    ("model", r"(?:with config: model=|'model': |'model_tag': )'([^']+)'", _said),
    ("context", r"(?:'max_model_len': |max_seq_len=|max_model_len=)(\d+)", _count),
    ("tp", r"(?:'tensor_parallel_size': |tensor_parallel_size=)(\d+)", _count),
    ("utilisation", r"(?:gpu_memory_utilization'?[:=] ?|--gpu-memory-utilization=)(\d?\.\d+|1\.0)", float),
    ("batched_tokens", r"(?:max_num_batched_tokens'?[:=] ?)(\d+)", _count),
    ("requests", r"(?:max_num_seqs'?[:=] ?)(\d+)", _count),
    ("kv_dtype", r"(?:kv_cache_dtype'?[:=] ?'?)(\w+)", _said),
    ("async_scheduling", r"(?:'async_scheduling': )(True|False)", _true),
    ("async_scheduling", r"(Asynchronous scheduling is enabled)", _yes),
    ("eager", r"(?:enforce_eager'?[:=] ?)(True|False)", _true),
    ("drafter", r"(?:SpeculativeConfig\(.*?model=|'speculative_config': \{.*?'model': )'([^']+)'", _said),
    ("weights_bytes", r"Model loading took ([\d.]+) GiB", _gib),
    ("kv_pool_bytes", r"Available KV cache memory: (-?[\d.]+) GiB", _gib),
    ("kv_pool_bytes", r"reserved ([\d.]+) GiB memory for KV Cache", _gib),
    ("kv_tokens", r"\w+ KV cache size: ([\d,]+) tokens", _count),
    ("concurrency", r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x", float),
    ("graph_bytes", r"(?:Estimated CUDA graph memory: |Graph capturing finished in .*? took )(-?[\d.]+) GiB", _gib),
    ("needed_bytes", r"\(([\d.]+) GiB KV cache is needed", _gib),
    ("longest", r"estimated maximum model length is (\d+)", _count),
    ("arguments", r"(non-default args)", _yes),
    ("text_only", r"'language_model_only': (True|False)", _true),
    ("failure", r"(No available memory for the cache blocks|CUDA out of memory|KV cache is needed, which)", _said),
)  # fmt: skip
SGLANG: Words = (
    ("arguments", r"(server_args=)", _yes),
    ("version", r"sglang(?:[ =:v-]|_version=')+(\d+\.\d+[\w.+]*)", _said),
    ("model", r"model_path='([^']+)'", _said),
    ("context", r"\bcontext_len(?:gth)?=(\d+)", _count),
    ("tp", r"\btp_size=(\d+)", _count),
    ("utilisation", r"mem_fraction_static=([\d.]+)", float),
    ("batched_tokens", r"chunked_prefill_size=(\d+)", _count),
    ("requests", r"max_running_requests=(\d+)", _count),
    ("kv_dtype", r"kv_cache_dtype='(\w+)'", _said),
    ("drafter", r"speculative_draft_model_path='([^']+)'", _said),
    ("swa_ratio", r"swa_full_tokens_ratio=([\d.]+)", float),
    ("weights_bytes", r"Load weight end\..*mem usage=([\d.]+) GB", _gib),
    ("kv_tokens", r"max_total_num_tokens=(\d+)", _count),
    ("kv_tokens", r"full_layer_tokens=(\d+)", _count),
    ("graph_bytes", r"Capture (?:piecewise )?(?:cuda|CUDA) graph end\..*mem usage=(-?[\d.]+) GB", _gib),
    ("failure", r"(Not enough memory\.|CUDA out of memory)", _said),
)
LLAMACPP: Words = (
    ("version", r"\bbuild:? (\d+)", _said),
    ("model", r"general\.name\s+(?:str)?\s*= (.+)", _said),
    ("context", r"n_ctx_(?:seq|per_seq)\s*= (\d+)", _count),
    ("requests", r"n_seq_max\s*= (\d+)", _count),
    ("batched_tokens", r"n_ubatch\s*= (\d+)", _count),
    ("kv_dtype", r"K \((\w+)\):", _said),
    ("kv_tokens", r"creating non-SWA KV cache, size = (\d+) cells", _count),
    ("failure", r"(failed to allocate|out of memory|failed to create context)", _said),
)
# llama.cpp tells each buffer of each device; those of the host count only when there is no other.
BUFFER = re.compile(r"(\w+)\s+(model|KV|compute) buffer size =\s+([\d.]+) MiB")
BUFFERS = {"model": "weights_bytes", "KV": "kv_pool_bytes", "compute": "graph_bytes"}
KV_GB = re.compile(
    r"KV Cache is allocated.*?(?:K size: ([\d.]+) GB, V size: ([\d.]+) GB|KV size: ([\d.]+) GB)"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}  # forums curl them
_COMPILED = {
    engine: tuple((fact, re.compile(pattern), read) for fact, pattern, read in words)
    for engine, words in {"vllm": VLLM, "sglang": SGLANG, "llamacpp": LLAMACPP}.items()
}


def read(text: str, engine: str = "") -> LogFacts:
    """What a start-up log says; the engine is recognised by its words when it is not named.

    Raises:
        Refused: BAD_REQUEST, when no engine's words are in it.
    """
    text = _ESCAPES.sub("", text[:MOST_CHARACTERS]).translate(_QUOTES)
    engine = engine or _recognised(text)
    if engine not in _COMPILED:
        raise _refused(f"Logs of `{engine}` are not read: only those of vllm, sglang and llamacpp are.")
    found: dict[str, object] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if _read_line(line[:20_000], engine, found):
            lines.append(line.strip()[:500])
    if engine == "sglang":
        _sglang_pool(text, found)
    if engine == "llamacpp":
        _buffers(text, found)
    if not found.keys() - {"version", "model", "arguments"}:
        raise _refused(
            "This log says nothing of memory: give the engine's start-up log from its first line on."
        )
    return LogFacts(engine=engine, lines=tuple(lines), **found)  # type: ignore[arg-type]


def _recognised(text: str) -> str:
    marks = (
        (
            "vllm",
            r"vllm|EngineCore|APIServer pid|non-default args|KV cache size|Available KV cache|Model loading took",
        ),
        ("sglang", r"sglang|ServerArgs\(|max_total_num_tokens=|Load weight end"),
        ("llamacpp", r"llama_kv_cache|llama_model_loader|load_tensors:|llama_context:|llama\.cpp"),
    )
    counts = {engine: len(re.findall(pattern, text)) for engine, pattern in marks}
    best = max(counts, key=lambda engine: counts[engine])
    if not counts[best]:
        raise _refused(
            "This is not the start-up log of vLLM, SGLang or llama.cpp: none of their words is in it."
        )
    return best


def _read_line(line: str, engine: str, found: dict[str, object]) -> bool:
    """Whether the line said anything. What is said first stands, but for figures of each rank."""
    said = False
    for fact, pattern, convert in _COMPILED[engine]:
        if match := pattern.search(line):
            value, said = line.strip()[:300] if fact == "failure" else convert(match[1]), True
            before = found.get(fact)
            if before is None:
                found[fact] = value
            elif fact == "kv_pool_bytes" and isinstance(value, int) and isinstance(before, int):
                found[fact] = min(before, value)
            elif fact == "graph_bytes" and isinstance(value, int) and isinstance(before, int):
                found[fact] = max(before, value)
    return said


def _buffers(text: str, found: dict[str, object]) -> None:
    """llama.cpp's buffers, added up over its devices."""
    told = BUFFER.findall(text)
    for kind, fact in BUFFERS.items():
        sizes = [(device, _mib(size)) for device, said, size in told if said == kind]
        cards = [
            size for device, size in sizes if not device.startswith("CPU") and not device.endswith("Host")
        ]
        if sizes:
            found[fact] = sum(cards) if cards else sum(size for _, size in sizes)


def _sglang_pool(text: str, found: dict[str, object]) -> None:
    """Both pools of the first rank: SGLang tells each, in lines of their own."""
    rank = [line for line in text.splitlines() if "KV Cache is allocated" in line]
    first = [line for line in rank if not re.search(r"\bTP[1-9]", line)]
    sizes = [
        sum(float(part) for part in match.groups() if part) for line in first if (match := KV_GB.search(line))
    ]
    if sizes:
        found["kv_pool_bytes"] = int(sum(sizes) * GIB)


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param="from_log", code="unreadable_log")
