"""The few lines on the page of the audit log that verify an export without Gemstead do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemstead.ledger.acts import checkpoint, new_act, remember
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.proof import export
from gemstead.ledger.signing import Signer
from gemstead.ledger.writer import Writer

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture
def run(tmp_path):
    [script] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    writer = Writer(tmp_path / "audit.db")
    for number in range(10):
        writer.put(
            AuditRecord(call_id=f"c{number}", began=float(number), tenant="ab"[number % 2], user='"}:{')
        )
    assert writer.close() == 0
    remember(tmp_path / "audit.db", new_act("key.create", "gms_x"))
    signer = Signer(tmp_path / "audit.key")
    checkpoint(tmp_path / "audit.db", signer, 1_795_247_546.7863176)
    (tmp_path / "key.pem").write_text(signer.public_pem)
    lines = list(export(tmp_path / "audit.db", 0.0, 1e11, "a"))

    def run(change):
        (tmp_path / "export").write_bytes(b"".join(change(lines)))
        command = [sys.executable, "-c", script, tmp_path / "export", tmp_path / "key.pem"]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def test_the_lines_on_the_page_verify_an_export(run):
    done = run(lambda lines: lines)
    assert done.stdout == "as it was written\n", done.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [line.replace(b'"c2"', b'"c3"') for line in lines],
        lambda lines: lines[:3] + lines[4:],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"at":1', b'"at":2')],
    ],
)
def test_they_find_what_is_not_as_it_was(run, change):
    assert run(change).returncode == 1
