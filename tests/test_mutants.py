"""The changes of `mutants.py` fit the code as it is now; running them takes minutes and is a command of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_change_fits_its_file_and_names_tests_that_exist(mutant: Mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert all((ROOT / path).is_file() for path in mutant.tests)


def test_names_are_different():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
