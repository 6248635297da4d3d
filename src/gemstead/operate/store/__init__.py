"""The model store: model files from wherever they are, on this machine, once, whole, and known to be what they say.

`pull` is the story, in `pull.py`. A source (`hub.py`, `objects.py`, `oci.py`, `local.py`) says which files there are
and reads a range of one; `transfer.py` reads many ranges at once; `part.py` remembers what has come; `shelf.py` knows
where everything lies; `verify.py` looks at it again; `pack.py` carries models where there is no network.

What the files of a model are, and whether they are what a manifest says, is decided in `catalog.manifest`; what a name
means in `catalog.sources`.
"""
