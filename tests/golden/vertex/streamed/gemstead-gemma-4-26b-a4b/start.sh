#!/usr/bin/env bash
# Made by gemstead render vertex from gemstead.yaml; change that file and render again.
# Engine and gateway in one container. When one of them ends, the container does, and Vertex starts it again.
set -uo pipefail
line=(
  vllm
  serve
  gs://acme-models/google/gemma-4-26B-A4B-it
  # the name that the gateway asks for
  --served-model-name gemma-4-26b-a4b
  # share of the card for weights, cache and work; said, because the default is 0.90 or 0.92 by version
  --gpu-memory-utilization 0.90
  # the longest prompt with its answer; cache that longer requests would reserve serves more of these
  --max-model-len 8192
  # requests at once: beyond this only the first token comes later, so the gateway queues instead
  --max-num-seqs 87
  # tokens of prompts in one step: sliding layers reserve them for every request that is admitted
  --max-num-batched-tokens 8192
  # the next step is prepared while this one runs; the default, said so that it does not vanish silently
  --async-scheduling
  # tools work without naming one; else such calls are refused
  --enable-auto-tool-choice
  # Gemma 4 calls tools in a form of its own, not in JSON
  --tool-call-parser gemma4
  # thoughts are kept apart from the answer
  --reasoning-parser gemma4
  # whether it thinks when a request does not say; engines differ in their default, so it is always said
  --default-chat-template-kwargs '{"enable_thinking": false}'
  # cached tokens are reported and can be billed as such
  --enable-prompt-tokens-details
  # text only: no memory for encoders, and more attention kernels may be used
  --language-model-only
  # the engine must not fetch addresses that callers write into a request; the name can never exist, so media come
  # inline only
  --allowed-media-domains none.invalid
  # a small drafter writes 1 tokens ahead and the model checks them in one pass
  --speculative-config '{"method": "mtp", "model": "gs://acme-models/google/gemma-4-26B-A4B-it-assistant", "num_speculative_tokens": 1}'
  # running answers may end when it is stopped; the default cuts them off at once
  --shutdown-timeout 600
  # only the gateway reaches it; vLLM leaves /metrics and /health open even with a key
  --host 0.0.0.0
  # where the gateway looks for it
  --port 8000
  # weights stream from the bucket into memory, several files at once
  --load-format runai_streamer
)
"${line[@]}" &
engine=$!
/opt/gemstead/bin/python -m gemstead serve &
gateway=$!
# Vertex says SIGTERM: the gateway lets running answers end, then the engine goes.
trap 'kill -TERM "$gateway"; wait "$gateway"; kill -TERM "$engine"; wait "$engine"; exit 0' TERM INT
wait -n "$engine" "$gateway"
code=$?
kill -TERM "$gateway" "$engine" 2>/dev/null
wait
exit "$code"
