"""A model's name becomes what is to be fetched: which place, which revision, which files of it.

A name of the catalogue means its GGUF file and projector at the commit that the catalogue knows, with the sums that it
knows; together with a checkpoint (`fp8`, `nvfp4`, `owner/name`) it means that repository. An address means what it
says. A company's own copy comes first: `redirect` sends a hub repository to the place that `store.sources` names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gemstead.catalog import addresses, names
from gemstead.catalog.addresses import Address
from gemstead.catalog.checkpoints import checkpoint, every
from gemstead.catalog.models import GgufFile, ModelFacts, models
from gemstead.refused import Reason, Refused
from gemstead.spec.fault import nearest

# Weights a second time, in forms that no engine here loads when safetensors are there.
_SECOND = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.ot",
    "original/*",
    "consolidated*",
    "*.gguf",
)
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class Known:
    """A file that is wanted, with what is known of it beforehand: 0 bytes and no sum where nothing is."""

    path: str
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Want:
    """What is to be fetched. No files: those that `chosen` picks from what the place has."""

    address: Address
    files: tuple[Known, ...] = ()
    include: tuple[str, ...] = ()  # patterns such as "*Q4_K_M*"
    licence: str = ""  # as the catalogue has it


def wanted(
    name: str,
    *,
    checkpoint_name: str = "",
    engine: str = "vllm",
    drafter: bool = False,
    include: Sequence[str] = (),
) -> tuple[Want, ...]:
    """What a name and a checkpoint mean, the model before its drafter.

    Raises:
        Refused: UNKNOWN_MODEL or BAD_REQUEST, with the nearest there is.
    """
    said = name.strip()
    if re.search(r"[:-]cloud$", said.casefold()):
        raise Refused(
            Reason.UNKNOWN_MODEL,
            f"`{said[:80]}` runs on Ollama's computers and has no files to fetch. Write the model that runs here: "
            f"`{re.sub(r'[:-]cloud$', '', said, flags=re.I)[:80]}`.",
            param="model",
            code="model_not_found",
        )
    if addresses.is_address(said):
        address = addresses.parse(said)
        if not checkpoint_name:
            return (of_address(address, include),)
    facts = names.find(said)
    if not checkpoint_name or checkpoint_name.casefold() == "gguf":
        return (of_gguf(facts.gguf, facts.licence),)
    found = checkpoint(checkpoint_name, facts.size, engine)
    files = (Known(found.file),) if found.file else ()
    first = Want(Address("hf", found.repo), files, tuple(include), facts.licence)
    if not drafter:
        return (first,)
    return first, Want(Address("hf", found.drafter or facts.assistant.repo), licence=facts.licence)


def of_gguf(gguf: GgufFile, licence: str = "") -> Want:
    """A catalogue entry's model and, where it has one, its projector."""
    files = [Known(gguf.file, gguf.bytes, gguf.sha256 or "")]
    if gguf.projector_file:
        files.append(Known(gguf.projector_file, gguf.projector_bytes, gguf.projector_sha256 or ""))
    return Want(Address("hf", gguf.repo, gguf.revision), tuple(files), licence=licence)


def of_address(address: Address, include: Sequence[str] = ()) -> Want:
    """What an address means. The catalogue's licence where it knows the repository."""
    files = (Known(address.file),) if address.file else ()
    return Want(address, files, tuple(include), licence_of(address))


def licence_of(address: Address) -> str:
    """What the catalogue says about the repository's licence; empty: it does not know it."""
    facts = facts_of(address)
    return facts.licence if facts else ""


def facts_of(address: Address) -> ModelFacts | None:
    """The model whose weights the hub repository holds, where the catalogue knows it."""
    if address.scheme != "hf":
        return None
    repo = address.place.casefold()
    for facts in models():
        mine = {facts.repo, facts.base_repo, facts.gguf.repo, facts.assistant.repo, facts.assistant.qat_repo}
        mine |= {one.repo for one in every() if one.model == facts.size}
        if repo in {one.casefold() for one in mine}:
            return facts
    return None


def near(repo: str) -> str:
    """A hub repository of the catalogue that is written much like this one; empty: none is."""
    known = [facts.repo for facts in models()] + [facts.gguf.repo for facts in models()]
    known += [one.repo for one in every() if "/" in one.repo]
    close = nearest(repo[:200], known)
    return "" if close is None or close == repo else close


def redirect(address: Address, rules: Mapping[str, str]) -> Address:
    """Where a hub repository is to be taken from: the first rule whose pattern it meets, `{repo}` and `{name}`
    filled in; itself when none does.

    Raises:
        Refused: a rule names no place.
    """
    if address.scheme != "hf":
        return address
    for pattern, place in rules.items():
        if fnmatchcase(address.place.casefold(), pattern.casefold()):
            filled = place.replace("{repo}", address.place).replace(
                "{name}", address.place.rpartition("/")[2]
            )
            return addresses.parse(filled)
    return address


def chosen(paths: Sequence[str], want: Want) -> tuple[str, ...]:
    """The files to fetch, of those that a place has.

    Safetensors are taken and not the same weights in older forms. Of a repository with several GGUF files of one model
    one has to be named: they are the same model in other widths, together hundreds of gigabytes.

    Raises:
        Refused: BAD_REQUEST: a named file is not there, nothing matches, or one has to be chosen; with what there is.
    """
    if want.files:
        missing = [file.path for file in want.files if file.path not in paths]
        if missing:
            raise _no_file(missing[0], want.address, paths)
        return tuple(file.path for file in want.files)
    if want.include:
        some = tuple(path for path in paths if any(fnmatchcase(path, pattern) for pattern in want.include))
        if not some:
            raise _no_file(" ".join(want.include), want.address, paths)
        return some
    if any(path.endswith(".safetensors") for path in paths):
        return tuple(path for path in paths if not any(fnmatchcase(path, pattern) for pattern in _SECOND))
    _one_gguf(paths, want.address)
    return tuple(paths)


def _one_gguf(paths: Sequence[str], address: Address) -> None:
    gguf = [path for path in paths if path.endswith(".gguf") and "mmproj" not in path.lower()]
    first = [path for path in gguf if (part := _PART.search(path)) is None or int(part[1]) == 1]
    if len(first) > 1:
        raise _refused(
            f"{address.key} has {len(first)} GGUF files, and one is enough: {_some(first)}. Name it: "
            f"`gemstead models pull {address.key}/{first[0]}`, or --include '*Q4_K_M*'."
        )


def _no_file(name: str, address: Address, paths: Sequence[str]) -> Refused:
    close = nearest(name[:200], list(paths))
    hint = f" Did you mean `{close}`?" if close else ""
    return _refused(f"{address.key} has no file `{name[:120]}`.{hint} There are: {_some(paths)}.")


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def _refused(message: str) -> Refused:
    return Refused(Reason.BAD_REQUEST, message, param="model", code="bad_address")
