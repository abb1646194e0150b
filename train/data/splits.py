"""Names of splits: which folder or row trains, which chooses the checkpoint, and which tests."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "validate", "dev", "development"),
    "test": ("test", "testing", "tests", "eval", "evaluation"),
}
_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_FILLERS = ("set", "data", "split", "images", "imgs")  # as in trainset, test_data and "Validation Set"


def split_of(name: str) -> str | None:
    """The split that a name stands for: `train`, `validation` or `test`; None where it stands for none.

    Capitals do not count, nor a `set`, `data`, `split` or `images` after the name.

    >>> split_of("Training_Set"), split_of("VAL"), split_of("cats")
    ('train', 'validation', None)
    """
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    if len(words) > 1 and words[-1] in _FILLERS:
        words.pop()
    joined = "".join(words)
    filler = next((each for each in _FILLERS if joined.endswith(each) and joined != each), "")
    return _SPLIT_OF.get(joined) or _SPLIT_OF.get(joined.removesuffix(filler))


def resembles_split(name: str) -> bool:
    """Whether one of the words in a name stands for a split, as in `train_2023` or `fold1-test`."""
    return any(split_of(word) for word in re.split(r"[\W\d_]+", name) if word)


def spellings(splits: Iterable[str] = SPELLINGS) -> str:
    """The names that are understood, for messages."""
    return "; ".join(f"{split}: {', '.join(SPELLINGS[split])}" for split in splits)
