"""A fleet in virtual time: pretend engines, driven by the same admission and picking code as production.

`fleet.py` runs the events, `replica.py` is one engine, `cache.py` its prefix cache, `engine.py` what a step costs,
`workload.py` what callers send, `report.py` what they felt. Nothing here reads a file, looks at a clock or throws
dice that it was not handed: the same arguments give the same outcome, to the byte.
"""
