"""The error tree: one root, one line, and the tree drawn in the docstring is the tree that exists."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from pgn_edge import errors
from pgn_edge.errors import MissingExtraError, PgnEdgeError

OURS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
TREE = [cls for cls in OURS if not issubclass(cls, Warning)]
PLAIN = [cls for cls in TREE if cls is not MissingExtraError]


@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_each_says_expected_got_and_do(cls: type[PgnEdgeError]):
    error = cls("task.pgn", expected="a zip", got="a text file", do="copy it again")
    assert str(error) == "task.pgn: expected a zip, got a text file; copy it again"
    assert (error.subject, error.expected, error.got, error.do) == (
        "task.pgn",
        "a zip",
        "a text file",
        "copy it again",
    )


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_one_except_clause_catches_all(cls: type[PgnEdgeError]):
    assert issubclass(cls, PgnEdgeError)


def test_the_docstring_draws_every_class_and_no_other():
    drawn = re.findall(r"\w*Error\b", (errors.__doc__ or "").split("Each carries")[0])
    assert sorted(drawn) == sorted(cls.__name__ for cls in TREE)


def test_a_missing_extra_names_the_pip_line():
    assert "pip install 'pgn-edge[rtx]'" in str(MissingExtraError("tensorrt_rtx", "rtx"))


@pytest.mark.parametrize(
    "got",
    ["two\nlines", "carriage\rreturn", "a\x1b[31m colour", "line\u2028separator", "null\x00byte"],
    ids=["newline", "carriage return", "terminal escape", "unicode line separator", "null"],
)
def test_text_from_a_hostile_file_stays_one_printable_line(got: str):
    message = str(PgnEdgeError("file", expected="something else", got=got, do="do not trust it"))
    assert len(message.splitlines()) == 1
    assert message.isprintable()


@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_survives_the_way_back_from_a_worker_process(cls: type[PgnEdgeError]):
    error = cls("a", expected="b", got="c", do="d")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.do) == (cls, str(error), "d")
