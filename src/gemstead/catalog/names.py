"""What people call the models, and which one they mean.

A name has an owner (`google/`, `unsloth/`), a family (`gemma-4`, `gemma4`, `Gemma 4`), a size (`e2b`, `26b`,
`26b-a4b`) and words that say how it is packed (`it`, `qat`, `q4_K_M`, `GGUF`). Owner and packing do not change which
model is meant: `gemma4:e2b-it-q4_K_M` is Gemma 4 E2B. A word that is none of these makes it another model: a
fine-tune is never taken for the original. `gemma4` alone is E4B, as Ollama has it (ollama.com/library/gemma4, read
2026-11-20).

What does not exist is refused with the nearest that does. The mistakes are known: 2B, 4B, 9B and 27B are sizes of
older Gemmas.
"""

from __future__ import annotations

import re

from gemstead.catalog.models import ModelFacts, models
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest

_FAMILY = re.compile(r"gemma-?4(?![0-9])[-.]?")
_SIZE = re.compile(r"(e?[0-9]+(?:\.[0-9]+)?b)(?:-(a[0-9]+b))?(?=-|$)")
# Ways to pack the same weights: hub and Ollama tags seen on Gemma 4 repositories, read 2026-11-21.
_PACKING = re.compile(
    r"it|instruct|chat|latest|gguf|qat|ud|unquantized|ct|autoround|dynamic|block|mobile|imat|imatrix|mlx|hf|maas"
    r"|i?q[0-9]|[0-9]|k|s|m|l|xs|xxs|nl|xl|xxl"
    r"|bf16|fp16|f16|fp8|f8|fp4|nvfp4|mxfp[48]|int[48]|[48]bit|awq|gptq|w[0-9]+a[0-9]+"
)
_OTHER_WORDS = {
    "assistant": "is the draft model that speeds up Gemma 4, not a model to call",
    "pt": "is the base model, which does not chat",
}
_OWNERS = re.compile(r"^(?:https?://)?(?:hf\.co/|huggingface\.co/|ollama\.com/library/)?(?:[^/\s]+/)?")


def find(name: str) -> ModelFacts:
    """The model that a name means.

    Raises:
        Refused: UNKNOWN_MODEL, with the nearest model there is.
    """
    key = _key(name)
    if key in ("gemma4", "gemma-4", "gemma4-latest"):
        return _of_size("E4B")
    family = _FAMILY.match(key)
    if family is None:
        raise _unknown_family(name, key)
    size = _SIZE.match(key, family.end())
    if size is None:
        raise _unknown(name, f"`{_short(name)}` names no size of Gemma 4.", list(models()))
    facts = _by_size(size[1], size[2])
    if facts is None:
        raise _no_such_size(name, size[0])
    for word in _words(key[size.end() :]):
        if not _PACKING.fullmatch(word):
            why = _OTHER_WORDS.get(word, f"is not {facts.title} itself (`{word}`)")
            raise _unknown(name, f"`{_short(name)}` {why}.", [facts])
    return facts


def canonical(name: str) -> str:
    """The one name we use for the model that a name means: `gemma-4-e2b`.

    Raises:
        Refused: UNKNOWN_MODEL, as `find`.
    """
    return find(name).name


def aliases(facts: ModelFacts) -> tuple[str, ...]:
    """The spellings by which callers may ask for this model, its own name first."""
    hub = [repo.removeprefix("google/") for repo in (facts.repo, facts.base_repo)]
    sizes = dict.fromkeys((facts.size.lower(), facts.size.lower().partition("-")[0]))
    spellings = [facts.name, f"{facts.name}-it"]
    for size in sizes:
        spellings += [f"gemma4:{size}", f"gemma4:{size}-it", f"gemma-4-{size}", f"gemma-4-{size}-it"]
    spellings += hub + [f"google/{name}" for name in hub] + [f"google/{name.lower()}" for name in hub]
    spellings += [facts.title, facts.gguf.repo]
    if facts.size == "E4B":
        spellings += ["gemma4", "gemma4:latest"]
    return tuple(dict.fromkeys(spellings))


def is_gguf_path(name: str) -> bool:
    """Whether a name is the path of a model file."""
    return name.strip().lower().endswith(".gguf")


def _key(name: str) -> str:
    """The name without owner, in lower case, its words joined by single hyphens."""
    bare = _OWNERS.sub("", name.strip(), count=1)
    return re.sub(r"[\s_:/-]+", "-", bare.lower()).strip("-").removeprefix("google-")


def _words(rest: str) -> list[str]:
    return [word for word in rest.split("-") if word]


def _of_size(size: str) -> ModelFacts:
    return next(facts for facts in models() if facts.size == size)


def _by_size(size: str, active: str | None) -> ModelFacts | None:
    """The model whose size is `e2b` or `26b`, with or without its active part `a4b`."""
    for facts in models():
        whole, _, part = facts.size.lower().partition("-")
        if whole == size and active in (None, part or None):
            return facts
    return None


def _no_such_size(name: str, said: str) -> Refused:
    """The refusal of a size that does not exist, with the next smaller and the next larger one."""
    number = float(re.sub(r"[^0-9.]", "", said.partition("-")[0]))
    exact = [facts for facts in models() if _number(facts) == number]
    below = [facts for facts in models() if _number(facts) < number][-1:]
    above = [facts for facts in models() if _number(facts) > number][:1]
    return _unknown(name, f"There is no Gemma 4 {said.upper()}.", exact or below + above)


def _number(facts: ModelFacts) -> float:
    """The number in a size's name: 2 of E2B, 26 of 26B-A4B."""
    return float(re.sub(r"[^0-9.]", "", facts.size.partition("-")[0]))


def _unknown_family(name: str, key: str) -> Refused:
    if not key:
        return _unknown(name, "No model is named.", list(models()))
    spellings = [spelling for facts in models() for spelling in aliases(facts)]
    if not re.search(r"gemma-?[0-3](?![0-9])", key) and (close := nearest(name[:128], spellings)):
        return _unknown(name, f"There is no model `{_short(name)}`.", [find(close)])
    message = (
        f"`{_short(name)}` is not a Gemma 4, and Gemma 4 is what the catalogue knows: "
        f"{', '.join(facts.name for facts in models())}. Any other model runs with `file` (a GGUF file) or "
        "`endpoints` (an engine that already runs)."
    )
    return Refused(Reason.UNKNOWN_MODEL, message, param="model", code="model_not_found")


def _unknown(name: str, problem: str, near: list[ModelFacts]) -> Refused:
    sizes = _listed([facts.size for facts in near], "and")
    nearest_is = f"The nearest size is {sizes}" if len(near) == 1 else f"The nearest sizes are {sizes}"
    if len(near) == len(models()):
        nearest_is = f"The sizes are {sizes}"
    write = _listed([f"`{facts.name}`" for facts in near], "or")
    return Refused(
        Reason.UNKNOWN_MODEL, f"{problem} {nearest_is}: write {write}.", param="model", code="model_not_found"
    )


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."
