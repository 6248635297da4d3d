"""A Kubernetes API, as far as we read it: how to reach it (`access.py`), and what is there, kept fresh (`watch.py`).

Our own few lines over the HTTP client in place of a client library: what is needed is a list, a watch and a token that
is renewed, and every such library brings a hundred modules of types for what we never ask.
"""
