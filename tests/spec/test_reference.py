"""What is published about the file is what the types say."""

from __future__ import annotations

import json
from pathlib import Path

from gemstead.spec import reference, schema
from gemstead.spec.fields import known_paths, sections

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_the_reference_page_is_the_generated_one() -> None:
    assert (DOCS / "gemstead-yaml.md").read_text("utf-8") == reference.markdown(), (
        "run: python -m gemstead.spec.reference > docs/reference/gemstead-yaml.md"
    )


def test_the_published_schema_is_the_generated_one() -> None:
    assert (DOCS / schema.FILE).read_text("utf-8") == schema.text(), (
        f"run: gemstead schema > docs/reference/{schema.FILE}"
    )


def test_every_field_says_what_it_means() -> None:
    silent = [f"{path}.{name}" for path, section in sections() for name, field in section.model_fields.items()
              if not field.description]  # fmt: skip
    assert silent == []


def test_every_field_is_on_the_page_and_in_the_schema() -> None:
    page, text = reference.markdown(), schema.text()
    for path in known_paths():
        name = path.rsplit(".", 1)[-1]
        assert f"| `{name}` |" in page
        assert f'"{name}": {{' in text


def test_the_schema_refuses_unknown_fields_in_every_section() -> None:
    made = schema.schema()
    assert made["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in made["$defs"].values())
    assert json.loads(schema.text()) == made


def test_links_on_the_page_lead_somewhere() -> None:
    page = reference.markdown()
    for path, _ in sections():
        if path and "[]" not in reference._shown_path(path):
            assert f"(#{path.replace('.', '')})" in page
            assert f"### `{path}`" in page
