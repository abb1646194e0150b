"""Self-contained HTML pages: one file, no script, no request to anywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

HEAD = """
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --muted: #57606a; --line: #d9dee3; --soft: #f3f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --text: #e6e9ec; --muted: #98a3af; --line: #333a42; --soft: #1f242a; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem;
  background: var(--ground); color: var(--text); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: normal; }
th { background: var(--soft); font-weight: 600; }
.t { min-width: 16rem; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
img, video { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
img.pixels { image-rendering: pixelated; }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem; } .gallery figure { width: 9rem; overflow-wrap: anywhere; }
figure { margin: .8rem 0; } figcaption, .note { color: var(--muted); font-size: .9rem; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 3px; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; } th, td { padding: .25rem .5rem; } .gallery figure { width: calc(50% - .4rem); }
}
"""
LONG = 60  # characters of a cell that gets room for whole lines
DASHES = "-\u2212\u2013\u2014"  # hyphen, minus, en and em dash
# A number as reports write it: 12, -0.5, 93.4 %, 5.0 ± 0.2, 3 of 32, 1.2e-05, [0.91, 0.94], <1, or a dash for none.
NUMBER = re.compile(rf"[{DASHES}+±~<>≤≥\[(]*\s*\d[\d.,]*(?:e[-+]?\d+)?(?:\W.*)?|[{DASHES}]")


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page; `parts` are HTML made by the functions below."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{HEAD}<title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text that scrolls in its own box if it is wider than the page.

    Columns of numbers stand to the right, and all others and the first one to the left.

    Args:
        header: Names of the columns.
        rows: Cells, as many in each row as the header has.
    """
    columns = list(zip(*rows, strict=True))
    numbers = [bool(at) and _is_numbers(cells) for at, cells in enumerate(columns)] or [False] * len(header)
    head = "".join(_cell("th", text, number) for text, number in zip(header, numbers, strict=True))
    lines = []
    for row in rows:
        cells = zip(row, numbers, strict=True)
        lines.append("".join(_cell("td", text, number and _is_number(text)) for text, number in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def word(value: object) -> str:
    """A value of a report for people to read: yes, no, not measured, a number of four digits, or the text itself."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(kind: str, text: str, is_number: bool) -> str:
    name = "n" if is_number else "t" if len(text) > LONG else ""
    mark = f' class="{name}"' if name else ""
    return f"<{kind}{mark}>{escape(text)}</{kind}>"


def _is_numbers(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers, apart from a remark here and there."""
    said = [cell for cell in cells if cell.strip()]
    return 2 * sum(map(_is_number, said)) > len(said)


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def picture(png: bytes, caption: str, *, width: int | None = None, pixels: bool = False) -> str:
    """A PNG inside the page; `pixels` keeps the edges of enlarged pixels sharp."""
    data = base64.b64encode(png).decode()
    size = f' width="{width}"' if width else ""
    kind = ' class="pixels"' if pixels else ""
    return (
        f'<figure><img{kind}{size} alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def video(data: bytes, caption: str, kind: str = "video/mp4") -> str:
    """A video inside the page, which starts when the reader asks for it.

    Args:
        data: Bytes of the file.
        caption: Text under the video.
        kind: Media type of the file.
    """
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure><video controls loop muted playsinline src="{source}"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def gallery(pictures: Sequence[str]) -> str:
    """Small pictures beside one another, in as many lines as the page needs."""
    return f'<div class="gallery">{"".join(pictures)}</div>'
