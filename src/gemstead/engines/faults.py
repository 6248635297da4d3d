"""What goes wrong beneath every engine that runs on PyTorch, and what to do about it: memory, driver, links, files.

Each entry is a pattern of a log line, its kind, a sentence, and a remedy. An adapter puts its own entries before these,
since the engine's own words say more than the library's. Words: PyTorch 2.11 to 2.13
(c10/cuda/CUDACachingAllocator.cpp, CUDAException.cpp, ProcessGroupNCCL.cpp), NCCL 2.27 (its WARN lines),
huggingface_hub 1.x, read 2026-11.
"""

from __future__ import annotations

import re

from gemstead.engines import reading

# Kinds after which the process ends, or is of no use.
FATAL = (
    "memory",
    "cache",
    "free",
    "card",
    "driver",
    "kernel",
    "links",
    "shared-memory",
    "port",
    "gated",
    "missing",
    "network",
    "disk",
    "version",
    "flag",
    "load",
)

SHARED: reading.Patterns = (
    (
        re.compile(
            r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError|HIP out of memory|cudaErrorMemoryAllocation"
        ),
        "memory",
        "the card has not enough memory for it",
        "smaller steps (`--max-num-batched-tokens`), fewer requests at once (`slots`), a shorter `context`, or smaller "
        "weights (`quantization`)",
    ),
    (
        re.compile(r"no kernel image is available for execution|CUDA error: invalid device function"),
        "kernel",
        "the engine has no code for this kind of card",
        "install a newer version of the engine, or the one that is built for this card",
    ),
    (
        re.compile(
            r"CUDA driver version is insufficient|driver on your system is too old|forward compatibility was attempted"
        ),
        "driver",
        "the card's driver is too old for the engine",
        "update the driver, or install an engine that is built for an older CUDA; `gemstead doctor` says what it needs",
    ),
    (
        re.compile(
            r"CUDA error: (?:an illegal memory access|unspecified launch failure|misaligned address|device-side assert)"
        ),
        "card",
        "a program on the card broke off",
        "if it comes again: another version of the engine, `draft: off`, or `--enforce-eager` to find out; see "
        "`gemstead doctor` for faults of the card itself",
    ),
    (
        re.compile(r"CUDA error: uncorrectable ECC|Xid \(PCI|GPU is lost|CUDA error: the launch timed out"),
        "card",
        "the card itself has failed",
        "see `gemstead doctor`; a card whose memory errors stay after a restart of the machine has to be replaced",
    ),
    (
        re.compile(
            r"No CUDA GPUs are available|no CUDA-capable device is detected|HIP error: no ROCm-capable device"
        ),
        "card",
        "the engine sees no card",
        "see `gemstead doctor`: the driver, the container's access to cards, and CUDA_VISIBLE_DEVICES",
    ),
    (
        re.compile(
            r"Error while (?:creating|attaching to) shared memory|No space left on device.*(?:/dev/shm|nccl)|Bus error"
        ),
        "shared-memory",
        "the memory that the engine's processes share (/dev/shm) is too small",
        "give the container more: `--shm-size 8g`, or on Kubernetes an emptyDir of medium Memory at /dev/shm",
    ),
    (
        re.compile(
            r"NCCL (?:WARN|error)|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|DistBackendError|RCCL"
        ),
        "links",
        "the cards of one replica cannot talk to each other",
        "look at `nvidia-smi topo -m`; try NCCL_P2P_DISABLE=1 where virtualisation (IOMMU, ACS) blocks peer access, or "
        "`tensor_parallel: 1`; NCCL_DEBUG=INFO says which link it is",
    ),
    (
        re.compile(r"GatedRepoError|Access to model \S+ is restricted|401 Client Error.*huggingface"),
        "gated",
        "the repository asks for a licence to be accepted",
        "accept it on its page on the hub, then give a token: HF_TOKEN",
    ),
    (
        re.compile(
            r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier|EntryNotFoundError"
        ),
        "missing",
        "there is no such model",
        "check `checkpoint`, or fetch it first: `gemstead models pull`",
    ),
    (
        re.compile(
            r"LocalEntryNotFoundError|OfflineModeIsEnabled|Max retries exceeded with url|NameResolutionError"
        ),
        "network",
        "the model is not on this machine and the hub cannot be reached",
        "fetch it where there is a network (`gemstead models pull`, `export`), or set HTTPS_PROXY",
    ),
    (
        re.compile(r"\[Errno 28\]|No space left on device"),
        "disk",
        "the disk is full",
        "free some: `gemstead models list`, `gemstead models rm`",
    ),
    (
        re.compile(r"SafetensorError|MetadataIncompleteBuffer|InvalidHeaderDeserialization"),
        "load",
        "a file of the model is damaged or incomplete",
        "`gemstead models verify` says which; fetch it again",
    ),
    (
        re.compile(
            r"does not recognize this architecture|Model architectures? \[.*\] (?:are|is) not supported|"
            r"KeyError: 'gemma4"
        ),
        "version",
        "this version of the engine does not know Gemma 4",
        "use a newer one: vLLM 0.21, SGLang 0.5.12 or Transformers 5.5 and later",
    ),
    (
        re.compile(r"unrecognized arguments?: (.*)|error: argument (--\S+):? (.*)"),
        "flag",
        "the engine does not take an option of its line",
        "check `flags` and `engine_version`",
    ),
    (
        re.compile(r"[Aa]ddress already in use"),
        "port",
        "its port is taken by another program",
        "another is tried",
    ),
)
