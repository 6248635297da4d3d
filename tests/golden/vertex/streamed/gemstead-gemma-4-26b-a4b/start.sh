#!/usr/bin/env bash
# Made by gemstead render vertex from gemstead.yaml; change that file and render again.
# Engine and gateway in one container. When one of them ends, the container does, and Vertex starts it again.
set -uo pipefail
vllm serve gs://acme-models/google/gemma-4-26B-A4B-it --served-model-name gemma-4-26b-a4b --gpu-memory-utilization 0.90 --max-model-len 8192 --max-num-seqs 87 --max-num-batched-tokens 8192 --async-scheduling --enable-auto-tool-choice --tool-call-parser gemma4 --reasoning-parser gemma4 --default-chat-template-kwargs '{"enable_thinking": false}' --enable-prompt-tokens-details --language-model-only --allowed-media-domains none.invalid --speculative-config '{"method": "mtp", "model": "gs://acme-models/google/gemma-4-26B-A4B-it-assistant", "num_speculative_tokens": 1}' --shutdown-timeout 600 --host 0.0.0.0 --port 8000 --load-format runai_streamer &
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
