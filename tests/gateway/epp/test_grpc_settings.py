from __future__ import annotations

import subprocess
import sys

from gemstead.gateway.epp.grpc_settings import EXPERIMENTS, prepare


def test_what_somebody_has_set_stays():
    environ = {"GRPC_EXPERIMENTS": "theirs"}
    prepare(environ)
    assert environ == {"GRPC_EXPERIMENTS": "theirs", "GRPC_ENABLE_FORK_SUPPORT": "0"}


def test_grpcio_knows_the_experiments():
    code = "import grpc; grpc.insecure_channel('127.0.0.1:1').close()"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"GRPC_EXPERIMENTS": EXPERIMENTS},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "nknown experiment" not in said.stderr
