"""Podman in a store of its own, and stand-ins for the images that ours are built on.

No registry is asked: `mmdebstrap` makes the root file systems from Debian's packages, as this machine's apt is set up
to fetch them, and they are given the names that the Dockerfiles ask for. So the Dockerfiles are built as rendered,
without a change. A stand-in also holds what a company's own base image would: its certificates and pip's settings.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemstead.render.docker_gateway import DEBIAN_IMAGE, DISTROLESS_IMAGE, PYTHON_IMAGE

DEBIAN = "bookworm"
NEEDED = ("podman", "mmdebstrap", "runc", "nsenter")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
# Within what a container may be given anywhere: Podman's own figures are more than some hosts allow.
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
PYTHON = (
    "python3",
    "python3-pip",
    "python3-venv",
    "libpython3.11-dev",
    "python-is-python3",
    "ca-certificates",
)
BARE = ("python3", "libpython3-stdlib", "ca-certificates", "netbase", "tzdata")


def missing() -> str:
    """Why images cannot be built here; empty when they can."""
    if os.geteuid() != 0:
        return "images are built as root"
    absent = [program for program in NEEDED if shutil.which(program) is None]
    return f"without {', '.join(absent)} (Debian packages of these names)" if absent else ""


class Podman:
    """One store of images and containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words = ["podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run"]
        self.words += ["--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def __call__(
        self, *words: str, timeout_s: float = 60, check: bool = True, text: str = "", errors: bool = False
    ) -> str:
        """What Podman prints on standard output, and with `errors` on standard error too."""
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, input=text, timeout=timeout_s, check=False
        )
        assert not check or done.returncode == 0, f"{words[0]}: {done.stderr[-4000:]}{done.stdout[-1000:]}"
        return (done.stdout + done.stderr if errors else done.stdout).strip()

    def build(self, folder: Path, tag: str, *words: str, timeout_s: float = 400) -> str:
        """Build a folder's Dockerfile without a daemon or namespaces of its own; what was said."""
        return self(
            "build", "--isolation=chroot", "--network=host", "--pull=never", "--format=docker",
            "--tag", tag, *words, str(folder), timeout_s=timeout_s,
        )  # fmt: skip

    def image(self, name: str) -> Any:
        """What an image says of itself."""
        return json.loads(self("image", "inspect", name))[0]

    def remove(self, everything: bool = True) -> None:
        """What still runs, and with `everything` the images too."""
        self("rm", "--all", "--force", "--time", "0", check=False)
        self("image", "unmount", "--all", "--force", check=False)
        if everything:
            shutil.rmtree(self.folder, ignore_errors=True)


def stand_in(
    podman: Podman, name: str, packages: Sequence[str], *hooks: str, variant: str = "minbase"
) -> str:
    """An image of that name, made of Debian's packages; one that is in the store already is kept."""
    if podman("images", "--quiet", name):
        return name
    archive = podman.folder / "base.tar"
    words = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={','.join(packages)}"]
    words += ["--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    words += ["--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
    for hook in (*_own(podman.folder), *hooks):
        words += ["--customize-hook", hook]
    done = subprocess.run(
        [*words, DEBIAN, str(archive)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    podman("import", "--quiet", "--change", f"ENV PATH={PATH}", str(archive), name, timeout_s=120)
    archive.unlink()
    return name


def _own(folder: Path) -> list[str]:
    """Hooks that lay this machine's certificates and pip settings into a stand-in."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    settings = folder / "pip.conf"
    lines = ["[global]", f"cert = {CERTIFICATES}"]
    lines += [f"index-url = {said.stdout.strip()}"] if said.returncode == 0 and said.stdout.strip() else []
    settings.write_text("\n".join(lines) + "\n", "utf-8")
    return [
        f'mkdir -p "$1/etc/ssl/certs" && cp {CERTIFICATES} "$1{CERTIFICATES}"',
        f'cp {settings} "$1/etc/pip.conf"',
    ]


def python_base(podman: Podman) -> None:
    """Stand-ins for Python's and Debian's slim images; one serves as both."""
    unmanaged = 'rm "$1/usr/lib/python3.11/EXTERNALLY-MANAGED"'  # Python's own image is not Debian's
    name = stand_in(podman, f"docker.io/library/{PYTHON_IMAGE}", PYTHON, unmanaged)
    podman("tag", name, f"docker.io/library/{DEBIAN_IMAGE}")


def llama_base(podman: Podman, name: str, folder: Path) -> None:
    """A stand-in for llama.cpp's image: its server, out of the library, where its image has it."""
    import xllamacpp

    library = Path(str(xllamacpp.__file__)).parent
    (folder / "llama-server").write_bytes((Path(__file__).parent / "llama_server.py").read_bytes())
    (folder / "llama-server").chmod(0o755)
    shutil.copytree(library, folder / "python/xllamacpp")
    lines = [
        f"FROM {PYTHON_IMAGE}",
        "RUN apt-get update && apt-get install -y --no-install-recommends curl libgomp1",
        "COPY llama-server /app/",
        "COPY python /app/python",
    ]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    podman.build(folder, name)


def engine_base(podman: Podman, name: str, engine: str, options: dict[str, str], folder: Path) -> None:
    """A stand-in for the image of vLLM, SGLang or Ollama: a program of that name, and Python where theirs has it."""
    (folder / engine).write_bytes((Path(__file__).parent / "stand_in_engine.py").read_bytes())
    (folder / engine).chmod(0o755)
    (folder / "options.json").write_text(json.dumps({engine: options}))
    lines = [f"FROM {PYTHON_IMAGE}", f"COPY {engine} /usr/bin/", "COPY options.json /opt/stand-in/"]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    podman.build(folder, name)


def vllm_base(podman: Podman, name: str, folder: Path) -> None:
    """A stand-in for vLLM's image for processors, whose packages are mounted when it runs."""
    # It starts processes of its own, which read this file again: hence the name that is looked at.
    program = "#!/opt/venv/bin/python3\nimport sys\nfrom vllm.entrypoints.cli.main import main\n"
    program += "if __name__ == '__main__':\n    sys.exit(main())\n"
    (folder / "vllm").write_text(program)
    (folder / "vllm").chmod(0o755)
    lines = [
        f"FROM {PYTHON_IMAGE}",
        "RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 libgomp1",
        "RUN python3 -m venv --without-pip /opt/venv",
        "COPY vllm /opt/venv/bin/",
        "ENV PATH=/opt/venv/bin:$PATH",
    ]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    podman.build(folder, name)


def bare_base(podman: Podman) -> None:
    """A stand-in for the image without a shell: packages are laid out, and none of their scripts runs."""
    people = "root:x:0:0:root:/root:/sbin/nologin\\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\\n"
    stand_in(podman, DISTROLESS_IMAGE, BARE, f'printf "{people}" > "$1/etc/passwd"', variant="extract")
