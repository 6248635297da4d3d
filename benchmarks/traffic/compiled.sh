#!/bin/sh
# A copy of the source in which the simulator and what it drives are compiled: ten times as fast.
#     sh benchmarks/traffic/compiled.sh /tmp/compiled && cd /tmp/compiled && PYTHONPATH=src:. python -m benchmarks.traffic.matrix ...
set -eu
to=$1
mkdir -p "$to"
cp -r src benchmarks "$to"
cd "$to/src"
find . -name __pycache__ -prune -exec rm -rf {} +
# Not compiled: a list that is inherited from (roster), and messages whose types are read while they run.
cd gemstead
files=$(ls traffic/call.py traffic/endpoint.py traffic/estimate.py traffic/interference.py traffic/outlier.py \
    traffic/picker.py traffic/prefix.py traffic/queue.py traffic/rates.py traffic/breaker.py traffic/admission.py \
    traffic/policies/*.py traffic/saturation.py traffic/scorers.py simulate/cache.py simulate/engine.py \
    simulate/fleet.py simulate/oracle.py simulate/outcome.py simulate/replica.py simulate/report.py simulate/trial.py \
    simulate/workload.py)
cd ..
MYPYPATH=. mypyc --ignore-missing-imports gemstead/refused.py $(for one in $files; do echo "gemstead/$one"; done)
