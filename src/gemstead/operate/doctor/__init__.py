"""Whether this machine is fit to serve: what is there is probed (`probe`), then judged (`judge`).

The two never mix. Probing runs commands and reads files, each within its time, and fails at nothing: what cannot be
read is unknown. Judging is arithmetic on what was probed, so every finding can be provoked in a test from a recording.
"""

from __future__ import annotations

from gemstead.operate.doctor.finding import Finding
from gemstead.operate.doctor.judge import judge
from gemstead.operate.doctor.probe import probe
from gemstead.operate.doctor.seen import Seen

__all__ = ["Finding", "Seen", "judge", "probe"]
