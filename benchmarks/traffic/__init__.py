"""Policies compared on traces, in simulation; see `compare.py`."""
