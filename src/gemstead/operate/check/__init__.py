"""`gemstead check`: about a dozen real requests, and in plain words what is wrong with the answers.

`questions` says what is asked, `run` asks it, the `judge_*` modules decide. Judges are functions of replies: a
complaint from the field becomes a test by pasting the reply into it.
"""

from __future__ import annotations

from gemstead.operate.check.client import Client, Target, UnreachableError
from gemstead.operate.check.run import Finding, Visit, begin, run
from gemstead.operate.check.verdict import Verdict

__all__ = ["Client", "Finding", "Target", "UnreachableError", "Verdict", "Visit", "begin", "run"]
