"""Looking at a machine: commands are recordings, files are real."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gemstead.operate.doctor.judge import judge
from gemstead.operate.doctor.probe import Answer, Wants, probe, run

MACHINES = Path(__file__).parents[2] / "data" / "machines"
MISSING = Answer(None, "", "not installed")


def recorded(**outputs: str):
    """A runner that answers by program and, for nvidia-smi, by its second word."""

    def answer(argv: Sequence[str], timeout_s: float) -> Answer:
        assert 0 < timeout_s <= 10, "every command has its time"
        for name in (" ".join(argv[:2]), argv[0]):
            if name in outputs:
                return Answer(0, outputs[name])
        return MISSING

    return answer


def machine(root: Path, vendor: str = "", bus: str = "0000:65:00.0", node: str = "1") -> Path:
    """A file system with one display device."""
    if vendor:
        device = root / "sys/bus/pci/devices" / bus
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text("0x030200\n")
        (device / "numa_node").write_text(node + "\n")
    return root


def look(tmp_path: Path, runner, **wants):
    return probe(Wants(tmp_path / "models", **wants), {}, runner, machine(tmp_path / "root"), quick=True)


def test_a_machine_without_cards_says_so(tmp_path):
    seen = look(tmp_path, recorded())
    assert seen.cards == () and seen.gpu_trouble == "" and seen.xids is None
    assert any(one.cause.startswith("no GPU") and one.level == "note" for one in judge(seen))


def test_cards_are_found_with_links_errors_and_their_processor(tmp_path):
    root = machine(tmp_path / "root", "0x10de")
    runner = recorded(
        **{
            "nvidia-smi -q": (MACHINES / "nvidia-smi-two-rtx-pro-6000.xml").read_text(),
            "nvidia-smi topo": (MACHINES / "nvidia-topo-8-pcie.txt").read_text(),
            "journalctl -k": (MACHINES / "kernel-xid.txt").read_text(),
            "timedatectl": "no\n",
            "docker info": '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}} null',
            "docker images": "vllm/vllm-openai:v0.18.0\nlmsysorg/sglang:v0.5.23-cu130\nredis:7\n",
            "ollama": "ollama version is 0.21.0",
            "llama-server": "version: 11549 (0c1e57098)",
        }
    )
    seen = probe(Wants(tmp_path), {}, runner, root, quick=True)
    assert len(seen.cards) == 2 and seen.cards[1].numa_node == 1 and seen.cards[0].numa_node is None
    assert len(seen.topology) == 8 and seen.xids is not None and len(seen.xids) == 3
    assert seen.clock_synchronised is False
    assert [(one.name, one.answers, one.gpus) for one in seen.runtimes] == [("docker", True, True)]
    assert {(one.name, one.version) for one in seen.engines} >= {
        ("vllm", "0.18.0"),
        ("sglang", "0.5.23"),
        ("ollama", "0.21.0"),
        ("llamacpp", "11549"),
    }


def test_a_card_without_its_driver_is_trouble(tmp_path):
    root = machine(tmp_path / "root", "0x10de")
    seen = probe(Wants(tmp_path), {}, recorded(), root, quick=True)
    assert seen.gpu_trouble == "1 NVIDIA card(s) on the bus; nvidia-smi: not installed"
    assert judge(seen)[0].level == "problem"


def test_a_journal_without_errors_is_no_missing_journal(tmp_path):
    def runner(argv: Sequence[str], timeout_s: float) -> Answer:
        return Answer(1, "") if argv[0] == "journalctl" else MISSING

    assert look(tmp_path, runner).xids == ()


def test_a_port_that_another_program_has_is_seen(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (port, nowhere) = look(tmp_path, recorded(), listen=(address, "192.0.2.7:9")).ports
    assert not port.free and "in use" in port.said
    assert not nowhere.free
    (free,) = look(tmp_path, recorded(), listen=(address,)).ports
    assert free.free


def test_a_command_that_hangs_is_left_after_its_time():
    began = time.monotonic()
    answer = run((sys.executable, "-c", "import time; time.sleep(60)"), 0.3)
    assert answer.code is None and "no answer in 0.3 s" in answer.err
    assert time.monotonic() - began < 20
    assert run(("no-such-program-here",), 1).err == "not installed"


@pytest.mark.skipif(sys.platform != "linux", reason="O_DIRECT")
def test_the_disk_is_read_and_left_as_it_was(tmp_path):
    seen = probe(Wants(tmp_path / "not" / "yet", hub=False), {}, recorded(), Path("/"))
    assert seen.disk is not None and seen.disk.free > 0
    assert seen.disk.read_bytes_s is None or seen.disk.read_bytes_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_nobody_listens_at_is_said_within_seconds(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        seen = probe(Wants(tmp_path), {"HF_ENDPOINT": endpoint}, recorded(), tmp_path / "root")
    assert seen.hub is not None and seen.hub.resolves and seen.hub.status is None and seen.hub.said
    (finding,) = [one for one in judge(seen) if one.topic == "hub"]
    assert finding.level == "warning" and "HF_ENDPOINT" in finding.remedy
