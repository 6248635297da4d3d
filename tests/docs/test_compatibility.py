"""docs/compatibility.md claims nothing: each row names a test that exists, and its tables are what was recorded.

Run with `RECORD_CONFORMANCE=1` after recording, to write the tables anew.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
RECORD = ROOT / "tests" / "data" / "conformance.json"
MARKS = re.compile(
    r"(<!-- generated from tests/data/conformance.json: begin -->\n)(.*)(<!-- generated[^>]*: end -->)", re.S
)


def tables(record: dict[str, dict[str, dict[str, str]]]) -> str:
    """The record as Markdown, one table for each tool."""
    lines = []
    for tool, cases in sorted(record.items()):
        passed = sum(case["status"] == "passed" for case in cases.values())
        lines += [
            f"\n### {tool}: {passed} of {len(cases)} passed\n",
            "| case | result | why |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {case['status']} | {shown(case['why'])} |" for name, case in cases.items()]
    return "\n".join([*lines, "", ""])


def shown(why: str) -> str:
    """A reason on one line, without the values that differ from run to run."""
    why = re.sub(r"\{.*\}", "{...}", " ".join(why.split())).replace("|", "\\|")
    return why[:160] + ("..." if len(why) > 160 else "")


def test_every_row_names_a_test_that_exists():
    named = re.findall(r"`(tests/live/\w+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) > 30
    for path, name in named:
        functions = [
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if is_function(node)
        ]
        assert name in functions, f"{path} has no {name}"


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_every_client_test_is_on_the_page():
    page = PAGE.read_text()
    for path in sorted((ROOT / "tests" / "live").glob("test_*_*.py")):
        for node in ast.parse(path.read_text()).body:
            if is_function(node) and node.name.startswith("test_") and path.stem in CLIENTS:
                assert f"{path.name}::{node.name}`" in page, (
                    f"docs/compatibility.md does not show {node.name}"
                )


CLIENTS = {"test_openai_python", "test_openai_node", "test_anthropic_python"}


def test_the_tables_are_what_was_recorded():
    page = PAGE.read_text()
    fresh = MARKS.sub(lambda found: found[1] + tables(json.loads(RECORD.read_text())) + found[3], page)
    if os.environ.get("RECORD_CONFORMANCE") == "1":
        PAGE.write_text(fresh)
    assert MARKS.search(page)
    assert fresh == PAGE.read_text(), (
        "write it anew: RECORD_CONFORMANCE=1 pytest tests/docs/test_compatibility.py"
    )
