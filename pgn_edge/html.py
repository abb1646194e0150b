"""Self-contained HTML pages: one file, no script, no request to anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d9dee3; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { background: #f3f5f7; font-weight: 600; }
img, video { max-width: 100%; image-rendering: auto; } img.pixels { image-rendering: pixelated; }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem; } .gallery figure { width: 9rem; overflow-wrap: anywhere; }
figure { margin: .8rem 0; } figcaption, .note { color: #57606a; font-size: .9rem; }
code { background: #f3f5f7; padding: .1rem .3rem; border-radius: 3px; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page; `parts` are HTML made by the functions below."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; the first column reads from the left."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


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
