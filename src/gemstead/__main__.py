"""`python -m gemstead` is `gemstead`."""

from __future__ import annotations

from gemstead.cli.main import entry

if __name__ == "__main__":
    entry()
