#!/usr/bin/python3
"""llama.cpp's server under its own name and options, out of the library that Gemstead brings along.

A stand-in for the program in llama.cpp's image, which no registry gives here: the same server code behind the options
that our launch line uses. An option that is not known here ends it, as the program would.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, "/app/python")


def main() -> None:
    parser = argparse.ArgumentParser("llama-server", allow_abbrev=False)
    for name in ("--model", "--hf-repo", "--hf-file", "--alias", "--host", "--chat-template-kwargs"):
        parser.add_argument(name, default="")
    for name in ("--port", "--ctx-size", "--parallel", "--ubatch-size", "--cache-ram"):
        parser.add_argument(name, type=int, default=0)
    for name in ("--no-mmproj", "--jinja", "--metrics", "--no-ui"):
        parser.add_argument(name, action="store_true")
    said = parser.parse_args()
    print("listening after", said.model or fetched(said.hf_repo, said.hf_file), flush=True)
    server = serve(said)  # noqa: F841  # it ends when it is let go
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


def fetched(repo: str, file: str) -> str:
    """A file that was fetched into the hub's cache beforehand, as llama.cpp finds it there."""
    folder = Path(os.environ["HF_HOME"], "hub", f"models--{repo.replace('/', '--')}", "snapshots")
    return str(next(folder.glob(f"*/{file}")))


def serve(said: argparse.Namespace) -> object:
    import xllamacpp

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    params = xllamacpp.CommonParams()
    params.model.path = said.model or fetched(said.hf_repo, said.hf_file)
    params.hostnames, params.port = [said.host], said.port
    params.n_parallel, params.n_ctx, params.n_ubatch = said.parallel, said.ctx_size, said.ubatch_size
    params.cache_ram_mib, params.endpoint_metrics = said.cache_ram, said.metrics
    params.use_jinja, params.ui, params.kv_unified, params.offline = said.jinja, not said.no_ui, False, True
    params.model_alias = {said.alias}
    thinking = json.loads(said.chat_template_kwargs or "{}").get("enable_thinking", True)
    params.enable_reasoning = int(thinking)
    return xllamacpp.Server(params)


main()
