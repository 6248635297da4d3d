"""`Options` as llama.cpp's own parameters.

xllamacpp follows llama.cpp month by month, and fields come and go: every field is looked for before it is set, and
one that is gone is an error here, not a default that silently bites later. The defaults that do bite are all set:

- `n_ctx` is shared by the slots, so it is `context * slots`, and `kv_unified` is off: each slot owns its context;
- thinking is on unless told otherwise; metrics are off; the prompt cache may take 8 GiB; every origin may call;
- `ctx_shift` would cut a long prompt silently: it stays off, so that a prompt that does not fit is a 400;
- up to 32 copies of a slot's windowed cache are kept as checkpoints: `CHECKPOINTS` bounds them;
- more threads than cores free for it is slower by up to 15 times (measured 2026-11), in prefill too.
"""

from __future__ import annotations

from typing import Any

from gemstead.embedded.options import LEVELS, Options

CHECKPOINTS = 2  # per slot; each is a copy of the windowed layers' cache
BATCH = 512  # tokens worked on at once; also the longest text that can be embedded, and room in every slot


class FieldGone(Exception):
    """The installed xllamacpp has no such parameter."""


def fill(params: Any, options: Options, api_key: str, llama: Any) -> None:
    """Set everything on `params` (a `CommonParams` of `llama`, the xllamacpp module).

    Raises:
        FieldGone: naming the field that this version does not have.
    """
    _set(params.model, path=options.model)
    _set(params.mmproj, path=options.projector)
    _set(params.cpuparams, n_threads=options.threads)
    _set(params.cpuparams_batch, n_threads=options.threads)
    _set(
        params,
        hostnames=[options.host],
        port=options.port,
        n_parallel=options.slots,
        n_ctx=options.context * options.slots,
        kv_unified=False,
        cont_batching=True,
        ctx_shift=False,
        cache_prompt=True,
        cache_ram_mib=options.prompt_cache_mib,
        n_ctx_checkpoints=CHECKPOINTS,
        n_batch=BATCH,
        n_ubatch=BATCH,
        endpoint_metrics=True,
        endpoint_slots=True,
        endpoint_props=False,
        ui=False,
        cors_origins="",
        cors_credentials=False,
        offline=True,
        use_jinja=True,
        enable_reasoning=int(options.thinking),
        model_alias={options.alias},
        api_keys=[api_key] if api_key else [],
        verbosity=LEVELS[options.log_level],
    )
    if options.embeddings:
        _set(
            params,
            embedding=True,
            pooling_type=llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
        )


def _set(target: Any, **fields: Any) -> None:
    for name, value in fields.items():
        if not hasattr(target, name):
            raise FieldGone(f"{type(target).__name__}.{name}")
        setattr(target, name, value)
