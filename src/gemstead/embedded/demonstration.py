"""The demonstration model that ships with the package: real Gemma 4 architecture (E2B), 3 MB, trained on a toy corpus.

It exists so that the whole path runs with no network and no wait. It answers a few dozen fixed questions, calls
tools, thinks and counts; it knows nothing else. How it is made: `recipes/tiny_gemma4/`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gemstead.plan.values import ModelFile

MODEL = "tiny-gemma-4-E2B-it-q8_0.gguf"
PROJECTOR = "mmproj-tiny-gemma-4-E2B-it-f16.gguf"
CONTEXT_TOKENS = 8192  # what the model was given as its longest, in its GGUF


def demonstration() -> ModelFile:
    """The files of the demonstration model.

    Raises:
        FileNotFoundError: the installation lacks its data files.
    """
    folder = Path(str(resources.files("gemstead.embedded"))) / "models"
    model, projector = folder / MODEL, folder / PROJECTOR
    return ModelFile(str(model), str(projector), demonstration=True, bytes=model.stat().st_size)
