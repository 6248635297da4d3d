"""What an engine may see of the environment of whoever starts it: named variables, and nothing else.

The head's environment holds secrets of the gateway (keys of a ledger, a cloud, a pager) that an engine has no use for,
and settings of other programs that change what an engine does (`VLLM_*`, `PYTHONPATH`, `LLAMA_ARG_*`). So variables
are let through by name or by the beginning of their name; what an engine shall be told besides is in its launch.
"""

from __future__ import annotations

from collections.abc import Mapping

NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",  # macOS
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",  # rootless Podman
        "DOCKER_HOST",
        "CONTAINER_HOST",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "CC",
        "CXX",  # Triton and inductor compile
        "SYSTEMROOT",  # Windows
        "APPDATA",
        "LOCALAPPDATA",
        "USERPROFILE",
    }
)
BEGINNINGS = (
    "LC_",
    "HF_",  # the hub's token and cache
    "CUDA",
    "NVIDIA_",
    "NCCL_",
    "RCCL_",
    "ROCM_",
    "HIP_",
    "ROCR_",
    "HSA_",
    "MIOPEN_",
    "ONEAPI_",
    "ZE_",
    "SYCL_",
    "UR_",
    "TORCH",  # TORCH_HOME, TORCHINDUCTOR_CACHE_DIR, TORCH_CUDA_ARCH_LIST
    "TRITON_",
    "FLASHINFER_",
    "OMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "GGML_",
    "TPU_",
    "PJRT_",
    "LIBTPU_",
    "AWS_",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "RUNAI_STREAMER_",  # weights that are read from a bucket
)
# Which cards an engine sees is said for each replica; the head's own view of them holds for all that it starts.
PINS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that an engine gets; letters' case does not matter (`http_proxy`)."""
    return {
        name: value
        for name, value in environ.items()
        if (upper := name.upper()) in NAMES or upper.startswith(BEGINNINGS)
    }
