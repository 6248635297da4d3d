"""Ollama: how it is started and given its model, and what little it says of itself.

It has no metrics page, so its load stays unknown and the gateway's own count decides. A model is a tag of its library,
a repository on the hub (`hf.co/...`), or a GGUF file here, which is made known to it by a Modelfile (`modelfile`).
Its context is always set: the default cuts longer prompts silently. Tags that end in `cloud` are refused.

Not run here. Sources: ollama docs (openai.mdx, faq.mdx, modelfile.mdx), envconfig/config.go and log lines of 0.13 to
0.23 in public issues, read 2026-11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gemstead.engines import faults, reading
from gemstead.engines.reading import LogEvent
from gemstead.openai.dialect import Dialect
from gemstead.traffic.endpoint import Load

if TYPE_CHECKING:
    from gemstead.engines.installed import Installed
    from gemstead.engines.launching import Words
    from gemstead.plan.placement import Placement
    from gemstead.plan.values import Launch, Replica

HEALTH_PATH = "/api/version"
METRICS_PATH = ""  # none
METRICS: reading.Metrics = dict.fromkeys(reading.GAUGES, ())
CAPABILITIES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/models",
    }
)
# It thinks unless told not to, and takes `reasoning_effort` and not `chat_template_kwargs`.
DIALECT = Dialect(reasoning="reasoning", thinking="effort", thinks=True)

FATAL = faults.FATAL
LOG_PATTERNS: reading.Patterns = (
    (
        re.compile(r"model load progress 0\.(?P<percent>\d\d)"),
        "loading",
        r"loading the model, \g<percent> %",
    ),
    (re.compile(r"llama runner started in"), "loaded", "the model is loaded"),
    (
        re.compile(r"pulling [0-9a-f]+:?\s+(?P<percent>\d+)%"),
        "fetching",
        r"fetching the model, \g<percent> %",
    ),
    (
        re.compile(r"offloaded (?P<done>\d+)/(?P<all>\d+) layers to GPU"),
        "offloaded",
        r"\g<done> of \g<all> layers are on the card",
        "fewer than all is several times slower: a shorter `context`, fewer `slots`, or a smaller model",
    ),
    (
        re.compile(r"truncating input prompt.*limit=(\d+)"),
        "cut",
        r"a prompt was cut to \1 tokens",
        "set `context` to the longest prompt with its answer",
    ),
    (
        re.compile(r"model requires more system memory|cudaMalloc failed: out of memory|failed to allocate"),
        "memory",
        "there is not enough memory for it",
        "a shorter `context`, fewer `slots`, or a smaller model",
    ),
    (
        re.compile(r"unknown model architecture: '([^']*)'"),
        "version",
        r"this Ollama does not know the architecture `\1`",
        "upgrade Ollama",
    ),
    (
        re.compile(r"pull model manifest: file does not exist"),
        "missing",
        "there is no such tag",
        "see `checkpoint`",
    ),
    (
        re.compile(r"llama runner process (?:has terminated|no longer running)|error loading model"),
        "load",
        "its runner has ended",
        "the lines above say why",
    ),
    (re.compile(r"Listening on (\S+)"), "listening", "listening"),
    (
        re.compile(r"bind: address already in use"),
        "port",
        "its port is taken by another program",
        "another is tried",
    ),
    *faults.SHARED,
)


def launch(
    replica: Replica, *, installed: Installed | None = None, api_key: str = "", modelfile: str = ""
) -> Launch:
    """The process that runs a replica; the model is fetched, or made from `modelfile`, once it listens.

    Raises:
        Refused: UNSUPPORTED, for a tag that leaves the machine.
    """
    from gemstead.engines.launching import start

    return start(replica, installed, api_key, lambda placement: _words(replica, placement, modelfile))


def _words(replica: Replica, placement: Placement, modelfile: str) -> Words:
    from gemstead.engines.commands.ollama import tag_of
    from gemstead.engines.launching import Words

    if replica.model.path:
        name = replica.pool
        made: tuple[str, ...] = ("ollama", "create", name, "--file", modelfile)
    else:
        name = tag_of(placement.setup.checkpoint.repo)
        made = ("ollama", "pull", name)
    return Words(served_model=name, health_path=HEALTH_PATH, metrics_path=METRICS_PATH, afterwards=(made,))


def modelfile(replica: Replica) -> str:
    """The Modelfile of a GGUF file on this machine: where it lies, and how long a request may be."""
    lines = [f"FROM {replica.model.path}"]
    if replica.model.projector:
        lines.append(f"FROM {replica.model.projector}")
    lines.append(f"PARAMETER num_ctx {replica.context_tokens}")
    return "\n".join(lines) + "\n"


def readiness(served_model: str) -> tuple[str, dict[str, object]]:
    """Path and body of a request whose answer proves that the model answers. It loads the model first."""
    body: dict[str, object] = {
        "model": served_model,
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
        "temperature": 0,
        "reasoning_effort": "none",
    }
    return "/v1/chat/completions", body


def read_load(text: str, at: float) -> Load:
    """Nothing: it reports no load."""
    return reading.load(text, at, METRICS)


def read_gauges(text: str) -> dict[str, float]:
    """Nothing: it has no metrics."""
    return reading.gauges(text, METRICS)


def read_log(line: str) -> LogEvent | None:
    """What a line of the engine's log means; None for the many that mean nothing to a user."""
    return reading.log_event(line, LOG_PATTERNS, FATAL)
