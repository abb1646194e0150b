"""Pages of reports: readable on a phone, in the dark, and with wide tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgn_edge.html import heading, page, paragraph, table, word


def classes(markup: str) -> list[list[str]]:
    """`n` for a cell to the right and an empty text for one to the left, by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", markup)
    return [[found or "" for found in re.findall(r"<t[hd](?: class=\"(\w)\")?>", row)] for row in rows]


def test_a_page_fits_a_phone_and_follows_the_colour_scheme():
    text = page("A <report>", [heading("Numbers"), paragraph("plain & simple")])
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "<title>A &lt;report&gt;</title>" in text
    assert "plain &amp; simple" in text
    assert not re.search(r"src=|href=|<script", text), "it asks for nothing from anywhere"


def test_text_reads_from_the_left_and_numbers_stand_to_the_right():
    rows = [
        ("ours", "93.4%", "0.5 ± 0.1", "passed", "3 of 32"),
        ("theirs", "\u2013", "1.2e-05", "FAILED", "0 of 32"),
        ("nobody", "", "[0.91, 0.94]", "passed at 2", "1 of 32"),
    ]
    markup = table(("name", "accuracy", "error", "verdict", "flips"), rows)
    assert classes(markup)[:3] == [["", "n", "n", "", "n"]] * 3
    assert classes(markup)[3] == ["", "", "n", "", "n"]


def test_a_remark_in_a_column_of_numbers_reads_from_the_left_and_the_numbers_stay():
    markup = table(("class", "top-1"), [("0", "93.4%"), ("1", "91.0%"), ("2", "out of memory at 3 GB")])
    assert classes(markup) == [["", "n"], ["", "n"], ["", "n"], ["", ""]]


def test_a_table_without_rows_has_its_header():
    assert classes(table(("a", "b"), [])) == [["", ""]]


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "not measured"), (True, "yes"), (False, "no"), (0.123456, "0.1235"), (3, "3"), ("exact", "exact")],
)
def test_values_are_words_for_people(value: object, said: str):
    assert word(value) == said


def test_a_wide_table_scrolls_in_its_own_box_on_a_phone_in_the_dark(tmp_path: Path):
    from tests.runtime.web.browser import chromium, look, require_chromium

    require_chromium()
    wide = [tuple(f"{row}.{column:06d}" for column in range(30)) for row in range(3)]
    path = tmp_path / "report.html"
    long = paragraph("/data/" + "x" * 300)
    path.write_text(page("A report", [long, table([f"column {column}" for column in range(30)], wide)]))
    with chromium(tmp_path / "profile") as browser:
        for width, scheme, ground in ((390, "dark", "rgb(20, 23, 27)"), (1440, "light", "rgb(255, 255, 255)")):
            look(browser, width, 844, scheme)
            browser.get(path.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") == width
            box = "const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]"
            inside, shown = browser.execute_script(box)
            assert inside > shown
            assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == ground
