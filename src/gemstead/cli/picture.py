"""A drawn chart into a file: SVG as it is, PNG by the library of the extra `plot`.

SVG is what we draw (`plan/chart.py`); it needs nothing and any browser shows it. PNG is for where only bitmaps go. Its
renderer takes letters from the fonts of this machine, and without one it would leave them all out without a word; so
one is looked for here, and its absence is said.
"""

from __future__ import annotations

import os
from pathlib import Path

from gemstead.cli.trouble import USAGE, Trouble

KINDS = (".svg", ".png")
FONTS = {  # file to family: the sans-serif fonts that systems usually have
    "DejaVuSans.ttf": "DejaVu Sans",
    "LiberationSans-Regular.ttf": "Liberation Sans",
    "NotoSans-Regular.ttf": "Noto Sans",
    "Arial.ttf": "Arial",
    "arial.ttf": "Arial",
}
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
MOST_FILES = 20_000  # that are looked at for a font
SHARPNESS = 2  # pixels of the PNG for each of the SVG


def check(name: str, option: str = "--plot") -> None:
    """Refuse a file that cannot be written as a picture, before anything is worked out.

    Raises:
        Trouble: another ending, or no library for PNG.
    """
    ending = Path(name).suffix.lower()
    if ending not in KINDS:
        raise Trouble(f"{option} {name}: name a file that ends in .svg or .png", code=USAGE)
    if not Path(name).expanduser().absolute().parent.is_dir():
        raise Trouble(f"{option} {name}: there is no such folder", code=USAGE)
    if ending == ".png":
        _renderer(option, name)


def write(name: str, svg: str, option: str = "--plot") -> None:
    """Put the picture into the file.

    Raises:
        Trouble: it cannot be rendered or written; what is missing.
    """
    check(name, option)
    content = svg.encode() if name.lower().endswith(".svg") else _png(svg, option, name)
    try:
        Path(name).expanduser().write_bytes(content)
    except OSError as error:
        raise Trouble(f"{option} {name}: cannot be written ({error.strerror or error})") from error


def _png(svg: str, option: str, name: str) -> bytes:
    render = _renderer(option, name)
    font = _font()
    if font is None:
        raise Trouble(
            f"{option} {name}: no font is installed, and a picture without letters says nothing: install one, such "
            "as `apt-get install fonts-dejavu-core`, or name a file that ends in .svg",
        )
    family = FONTS[font.name]
    drawn = render.svg_to_bytes(
        svg_string=svg.replace("system-ui, sans-serif", f"'{family}'"),
        skip_system_fonts=True,
        font_files=[str(font)],
        font_family=family,
        zoom=SHARPNESS,
    )
    return bytes(drawn)


def _renderer(option: str, name: str):  # type: ignore[no-untyped-def]
    try:
        import resvg_py
    except ImportError:
        raise Trouble(
            f"{option} {name}: PNG needs `pip install 'gemstead[plot]'`; a file that ends in .svg needs nothing",
            code=USAGE,
        ) from None
    return resvg_py


def _font() -> Path | None:
    """A sans-serif font of this machine; None: there is none that we know."""
    seen = 0
    for folder in FOLDERS:
        for where, _, files in os.walk(Path(folder).expanduser()):
            found = next((file for file in FONTS if file in files), None)
            if found:
                return Path(where) / found
            seen += len(files)
            if seen > MOST_FILES:
                return None
    return None
