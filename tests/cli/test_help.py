"""What the help promises, and options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pgn_edge.cli import SECTIONS, cli
from pgn_edge.cli.console import PromptCount

NAMES = sorted(cli.commands)


def test_the_help_shows_every_command_in_the_order_of_the_work():
    assert sorted(name for names in SECTIONS.values() for name in names) == NAMES
    lines = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "80"}).stdout.splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in NAMES]
    assert shown == [name for names in SECTIONS.values() for name in names]
    assert [title for title in SECTIONS if f"{title}:" not in lines] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_line_of_a_command_is_not_cut_at_80_columns(name: str):
    sentence = (cli.commands[name].help or "").split("\n\n")[0].strip()
    assert len(sentence) <= 60
    assert sentence.endswith(".")
    done = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "80"})
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
    assert line.removeprefix(f"  {name}").strip() == sentence


@pytest.mark.parametrize("name", NAMES)
def test_json_is_a_flag_in_every_command(name: str):
    options = [param for param in cli.commands[name].params if "--json" in param.opts]
    assert all(isinstance(option, click.Option) and option.is_flag for option in options)
    assert options


@pytest.mark.parametrize("place", range(4))
def test_debug_works_at_any_place_of_the_line(place: int, tmp_path: Path):
    words = ["inspect", str(tmp_path / "missing.pgn"), "--json"]
    words.insert(place, "--debug")
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_debug_behind_two_dashes_is_an_argument():
    done = CliRunner().invoke(cli, ["inspect", "--", "--debug"])
    assert done.exit_code == 1
    assert "--debug: expected" in done.stderr


@pytest.mark.parametrize("word", ["auto", "AUTO", "Auto"])
def test_the_automatic_number_of_prompts_is_written_in_any_case(word: str):
    assert PromptCount(1).convert(word, None, None) is None
