"""Carrying a bundle out: what is applied in which order, what is waited for, what is removed, and how to go back.

`steps.py` decides (a step function), `carry.py` acts on a `Place` (a cluster, Cloud Run, Vertex AI), and `history.py`
says what a place remembers of earlier bundles. Nothing here knows how any of those places is talked to.
"""
