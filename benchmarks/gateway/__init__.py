"""What a gateway costs, measured beside its peers in one interleaved run.

In reading order: `tools` builds the mock engine and the load generator (C, in native/), `processes` pins and
weighs processes, `subjects` says how each gateway is started, `peers` installs the others, `scenarios` drives
load, `behaviour` asks what happens when clients misbehave, `campaign` puts them in order, `bars` judges, and
`report` writes. Method and results: docs/benchmarks.md.
"""
