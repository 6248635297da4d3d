"""What holds for all tests: Hypothesis judges what is found, not how busy the machine is."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# gRPC, once loaded, writes to the standard error of every process that is started afterwards.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
