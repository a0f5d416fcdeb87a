"""Sections of text, tables and pictures → one HTML file that needs nothing else: no network, no script.

Whatever comes from data is escaped on its way to `Html`, which no function here makes in another way; and the page
itself forbids the browser scripts and the network (Content-Security-Policy).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NewType

from wildstream.pictures.drawing import DENSITY

Html = NewType("Html", str)
"""Text that may stand in a page as it is."""
ROWS_SHOWN = 40
"""Rows of a table that are not folded away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure that matters, at the top of a page."""

    name: str
    """What it is."""
    value: str
    """How much."""
    note: str = ""
    """What to hold it against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart."""

    name: str
    """Name of its file, without .png."""
    png: bytes
    """The file."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    """What is seen and how to read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page."""

    title: str
    """Its heading, also in the table of contents."""
    parts: Sequence[Html]
    """What it shows, from top to bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page from top to bottom."""

    title: str
    """Its heading."""
    facts: Sequence[tuple[str, str]]
    """What it is about: names and values."""
    tiles: Sequence[Tile] = ()
    """What matters most."""
    notes: Sequence[str] = ()
    """What to know of these figures."""
    sections: Sequence[Section] = ()
    """The rest."""

    def render(self) -> str:
        """The page as HTML."""
        numbered = list(enumerate(self.sections, 1))
        contents = "".join(f'<a href="#s{number}">{escape(part.title)}</a>' for number, part in numbered)
        sections = "".join(
            f'<section id="s{number}"><h2>{escape(part.title)}</h2>{"".join(part.parts)}</section>\n'
            for number, part in numbered
        )
        facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in self.facts)
        tiles = "".join(
            f'<div class="tile"><span>{escape(tile.name)}</span><b>{escape(tile.value)}</b>'
            f"<small>{escape(tile.note)}</small></div>"
            for tile in self.tiles
        )
        notes = "".join(map(paragraph, self.notes))
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">\n'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            f"<header><h1>{escape(self.title)}</h1><dl>{facts}</dl></header>\n"
            f'<div class="tiles">{tiles}</div>\n<div class="notes">{notes}</div>\n'
            f'<nav aria-label="Contents">{contents}</nav>\n'
            f"<main>{sections}</main>\n</body></html>\n"
        )


def paragraph(text: str) -> Html:
    """Words."""
    return Html(f"<p>{escape(text)}</p>")


def heading(text: str) -> Html:
    """The heading of a part of a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> Html:
    """Rows under a head, the first column to the left, the others to the right; many rows can be folded out."""
    cells = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    whole = f'<div class="wide"><table>{words}<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    return Html(whole) if len(rows) <= ROWS_SHOWN else fold(f"{len(rows):,} rows", Html(whole))


def fold(title: str, content: Html) -> Html:
    """What can be folded out."""
    return Html(f"<details><summary>{escape(title)}</summary>{content}</details>")


def verbatim(text: str) -> Html:
    """Text as it is written, such as a configuration."""
    return Html(f"<pre>{escape(text)}</pre>")


def show(picture: Picture) -> Html:
    """A chart with its caption; where the screen is narrower than it can be read, it is scrolled."""
    width = round(_png_width(picture.png) / DENSITY)
    return Html(
        f'<figure><div class="wide"><img width="{width}" style="min-width:min({width}px,28rem)" '
        f'alt="{escape(picture.alt)}" src="{_inline(picture.png, "png")}"></div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def cards(items: Sequence[tuple[bytes | None, str, Sequence[tuple[str, str]]]]) -> Html:
    """Strips of frames (JPEG, or None where there is none) with a title and facts each, side by side where they fit."""
    parts = []
    for jpeg, title, facts in items:
        image = (
            f'<img alt="Frames of this window, from left to right" src="{_inline(jpeg, "jpeg")}">'
            if jpeg is not None
            else "<i>no frames</i>"
        )
        lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
        parts.append(f"<article>{image}<b>{escape(title)}</b><dl>{lines}</dl></article>")
    return Html(f'<div class="cards">{"".join(parts)}</div>')


def _inline(data: bytes, kind: str) -> str:
    """An image as a URL that holds it."""
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def _png_width(png: bytes) -> int:
    """Pixels from left to right, as the header of a PNG has them."""
    return int.from_bytes(png[16:20], "big")


_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f6f8fa;--ink:#1f2328;--faint:#59636e;--rule:#d8dee4;--accent:#0072b2}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--card:#161b22;--ink:#e6edf3;--faint:#9aa4af;--rule:#30363d;
--accent:#6cb6ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1.5rem 1rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem}h2{font-size:1.25rem;margin:0 0 .7rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p{margin:.4rem 0;max-width:48rem}
header dl{display:flex;flex-wrap:wrap;gap:.2rem 1.6rem;margin:0}
dl div{display:flex;gap:.45rem}dt{color:var(--faint);flex:none}dd{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:.7rem;margin:1.2rem 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.6rem .8rem}
.tile span,.tile small{display:block;color:var(--faint);font-size:.85rem}
.tile b{font-size:1.5rem;line-height:1.3;white-space:nowrap}
.notes{color:var(--faint);font-size:.9rem}
nav{position:sticky;top:0;z-index:1;display:flex;gap:1.1rem;overflow-x:auto;background:var(--paper);padding:.6rem 0;
border-bottom:1px solid var(--rule);white-space:nowrap;font-size:.95rem}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{padding-top:1.6rem;scroll-margin-top:2.2rem}
.wide{overflow-x:auto}
figure{margin:.4rem 0 1.4rem}figure .wide{background:#fff;border:1px solid var(--rule);border-radius:.5rem;
padding:.5rem}
img{display:block;max-width:100%;height:auto}figure img{margin:0 auto}
figcaption{color:var(--faint);font-size:.9rem;max-width:52rem;margin-top:.4rem}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{text-align:left;color:var(--faint);padding-bottom:.3rem;max-width:48rem}
th,td{padding:.28rem .75rem;border-bottom:1px solid var(--rule);text-align:right;font-weight:400;white-space:nowrap}
th[scope=row]{text-align:left;white-space:normal;min-width:8rem;max-width:22rem;overflow-wrap:anywhere}
thead th{color:var(--faint);border-bottom-width:2px}thead th:first-child{text-align:left}
pre{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.8rem;overflow-x:auto;
font-size:.85rem}
summary{cursor:pointer;color:var(--accent);margin:.5rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.9rem;margin:.8rem 0}
article{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;overflow:hidden;font-size:.9rem}
article img{width:100%;background:#000}article b,article i{display:block;padding:.5rem .7rem .1rem}
article dl{margin:0;padding:.1rem .7rem .6rem}
@media print{nav{display:none}section{break-inside:avoid-page}}
""".strip()
