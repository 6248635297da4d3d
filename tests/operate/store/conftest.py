from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gemstead.operate.hub import Hub
from gemstead.operate.store.place import Place
from gemstead.testing.hub import PretendHub, serving

MODEL = bytes(range(256)) * 12_000
BIG = bytes(reversed(range(256))) * 163_840  # 40 MiB: three ranges
FILES = {
    "config.json": b'{"model_type": "gemma4"}',
    "model-00001-of-00002.safetensors": MODEL,
    "model-00002-of-00002.safetensors": MODEL[::-1],
    "tokenizer/tokenizer.json": b"{}" * 100,
    "pytorch_model.bin": MODEL,
}


@pytest.fixture
def hub() -> Iterator[PretendHub]:
    with serving(PretendHub(files=dict(FILES))) as pretend:
        yield pretend


@pytest.fixture
def place(hub: PretendHub, tmp_path: Path) -> Place:
    environ = hub.environ(tmp_path)
    settings = Hub.of(environ)
    return Place(path=settings.cache, hub=settings, min_free_bytes=0, environ=environ)
