"""A CSV of images: every spelling that a spreadsheet writes, and rows that are refused by their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pgn_edge.errors import DataError
from pgn_edge.train.data import DataSet, Samples, load_data

HEADER = "path,label,split\n"
ROWS = "".join(f"{part}/{name}{i}.png,{name},{part}\n" for part in ("train", "test") for name in "ab" for i in range(3))


def write(folder: Path, text: str | bytes) -> Path:
    """The CSV, and 3 x 3 images for each of `ROWS`, beside it."""
    for line in ROWS.splitlines():
        path = folder / line.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (ord(line.split(",")[1]), 0, 0)).save(path)
    file = folder / "data.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def pairs(samples: Samples, data: DataSet) -> list[tuple[str, str]]:
    """Name of the file and of the class."""
    labels = [data.labels[label] for label in samples.labels]
    return sorted((Path(samples.name(index)).name, label) for index, label in enumerate(labels))


EXPECTED_TEST = [("a0.png", "a"), ("a1.png", "a"), ("a2.png", "a"), ("b0.png", "b"), ("b1.png", "b"), ("b2.png", "b")]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HEADER + ROWS, id="plain"),
        pytest.param(b"\xef\xbb\xbf" + (HEADER + ROWS).encode(), id="with a byte order mark"),
        pytest.param((HEADER + ROWS).replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(HEADER + "\n" + ROWS.replace("\n", "\n\n,,\n"), id="empty rows"),
        pytest.param(
            "Split, Label ,path\n"
            + "".join(
                f'{split}, {label} ,"{path}"\n' for path, label, split in (row.split(",") for row in ROWS.split())
            ),
            id="columns in another order, with spaces and quotes",
        ),
        pytest.param((HEADER + ROWS).removesuffix("\n"), id="no line end at the end"),
        pytest.param(HEADER + ROWS.replace(",train", ",TRAIN"), id="split in capitals"),
    ],
)
def test_every_spelling_of_one_csv(tmp_path: Path, text: str | bytes):
    data = load_data(str(write(tmp_path, text)))
    assert (data.name, data.labels) == ("data", ("a", "b"))
    assert pairs(data.test, data) == EXPECTED_TEST
    assert sorted(pairs(data.train, data) + pairs(data.validation, data)) == EXPECTED_TEST
    assert len(data.validation) == 2, "cut from the training rows, one of each class"
    for samples in (data.train, data.validation, data.test):
        for index, label in enumerate(samples.labels):
            assert samples.read(index)[0, 0, 0] == ord(data.labels[label])


@pytest.mark.parametrize("again", ["./train/a1.png", "test/../train/a1.png", "{folder}/train/a1.png"])
def test_one_file_named_twice_with_two_labels_is_refused(tmp_path: Path, again: str):
    row = f"{again.format(folder=tmp_path)},b,train\n"
    with pytest.raises(DataError, match=r"expected each image once, got '.*' in rows 3 and 14 as 'a' and 'b'; remove"):
        load_data(str(write(tmp_path, HEADER + ROWS + row)))


def test_a_quote_after_a_space_is_no_part_of_the_name(tmp_path: Path):
    rows = "".join(f'"{p}", "{label}", {split}\n' for p, label, split in (r.split(",") for r in ROWS.split()))
    assert load_data(str(write(tmp_path, HEADER + rows))).labels == ("a", "b")


@pytest.mark.parametrize("name", ["val", "Dev"])
def test_rows_without_a_test_split_are_tested_on_their_validation(tmp_path: Path, name: str):
    data = load_data(str(write(tmp_path, HEADER + ROWS.replace(",test", f",{name}"))))
    assert pairs(data.test, data) == EXPECTED_TEST
    assert len(data.notes) == 1


@pytest.mark.parametrize("name", ["val", "validation", "Valid", "dev"])
def test_validation_rows_are_taken_as_they_are(tmp_path: Path, name: str):
    rows = ROWS.replace("train/a0.png,a,train", f"train/a0.png,a,{name}").replace(
        "train/b0.png,b,train", f"train/b0.png,b,{name}"
    )
    data = load_data(str(write(tmp_path, HEADER + rows)))
    assert pairs(data.validation, data) == [("a0.png", "a"), ("b0.png", "b")]
    assert len(data.train) == 4


def test_without_a_split_it_is_cut_like_a_folder(tmp_path: Path):
    rows = "".join(f"{name}{i}.png,{name}\n" for name in "ab" for i in range(20))
    file = tmp_path / "all.csv"
    file.write_text("path,label\n" + rows)
    data = load_data("all.csv", tmp_path)
    assert [len(samples) for samples in (data.train, data.validation, data.test)] == [28, 4, 8]
    found = [each for samples in (data.train, data.validation, data.test) for each in pairs(samples, data)]
    assert len(set(found)) == 40


def test_a_comma_and_a_quote_in_a_name(tmp_path: Path):
    rows = ROWS.replace("test/a0.png", '"test/a, ""x"".png"')
    write(tmp_path, HEADER + rows)
    (tmp_path / "test" / "a0.png").rename(tmp_path / "test" / 'a, "x".png')
    data = load_data("data.csv", tmp_path)
    assert ('a, "x".png', "a") in pairs(data.test, data)
    for index in range(len(data.test)):
        data.test.read(index)


def test_paths_may_be_relative_to_the_root_or_absolute(tmp_path: Path):
    file = write(tmp_path / "images", HEADER + ROWS.replace("test/a0.png", f"{tmp_path}/images/test/a0.png"))
    lists = tmp_path / "lists"
    lists.mkdir()
    moved = file.rename(lists / "data.csv")
    data = load_data(str(moved), tmp_path / "images")
    for samples in (data.train, data.validation, data.test):
        for index in range(len(samples)):
            assert samples.read(index).shape == (3, 3, 3)


def test_a_missing_image_is_found_when_it_is_read(tmp_path: Path):
    file = write(tmp_path, HEADER + ROWS)
    (tmp_path / "test" / "b2.png").unlink()
    data = load_data(str(file))
    index = [Path(data.test.name(i)).name for i in range(6)].index("b2.png")
    with pytest.raises(DataError, match=r"b2\.png: expected an image, got no such file"):
        data.test.read(index)


def test_integers_count_in_the_order_of_labels_txt(tmp_path: Path):
    file = write(tmp_path, HEADER + ROWS.replace(",a,", ",1,").replace(",b,", ",0,"))
    (tmp_path / "labels.txt").write_text("b\na\n")
    data = load_data(str(file))
    assert data.labels == ("b", "a")
    assert pairs(data.test, data) == EXPECTED_TEST


def test_names_are_found_in_labels_txt(tmp_path: Path):
    file = write(tmp_path, HEADER + ROWS)
    (tmp_path / "labels.txt").write_text("b\na\n")
    data = load_data(str(file))
    assert data.labels == ("b", "a")
    assert pairs(data.test, data) == EXPECTED_TEST


def test_numbers_that_are_their_own_lines_may_stand_in_labels_txt(tmp_path: Path):
    file = write(tmp_path, HEADER + ROWS.replace(",a,", ",1,").replace(",b,", ",0,"))
    (tmp_path / "labels.txt").write_text("0\n1\n")
    data = load_data(str(file))
    assert data.labels == ("0", "1")
    assert pairs(data.test, data) == [(f"{c}{i}.png", "01"[c == "a"]) for c in "ab" for i in range(3)]


def test_integers_without_labels_txt_are_names(tmp_path: Path):
    file = write(tmp_path, HEADER + ROWS.replace(",a,", ",7,").replace(",b,", ",12,"))
    assert load_data(str(file)).labels == ("12", "7")


def beside(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "labels.txt").write_text(text) and None


@pytest.mark.parametrize(
    ("text", "says", "prepare"),
    [
        pytest.param("", "expected the header path,label or path,label,split, got ''", None, id="empty file"),
        pytest.param("a.png,cat,train\n", "got 'a.png,cat,train'; mend the first row", None, id="no header"),
        pytest.param(HEADER.replace(",", ";") + ROWS, "got 'path;label;split'", None, id="semicolons"),
        pytest.param("path,label,set\nx.png,a,test\n", "got 'path,label,set'", None, id="column of another name"),
        pytest.param("path,label,label\n", "got 'path,label,label'", None, id="column twice"),
        pytest.param(HEADER, "expected rows of images, got a header alone", None, id="no rows"),
        pytest.param(HEADER + ROWS + "c.png,c\n", "row 14: expected 3 cells, got 2", None, id="row too short"),
        pytest.param(HEADER + "\n" + ROWS + "c,d.png,c,test\n", "row 15: expected 3 cells, got 4", None, id="comma"),
        pytest.param(HEADER + ROWS + ",c,test\n", "row 14: expected a path, got ''", None, id="no path"),
        pytest.param(HEADER + ROWS + "c.png, ,test\n", "row 14: expected a label, got ''", None, id="no label"),
        pytest.param(HEADER + ROWS + "c.png,a,\n", "row 14: expected a split, got ''", None, id="no split"),
        pytest.param(HEADER + ROWS + "c\0.png,a,test\n", "data.csv", None, id="a path that no file can have"),
        pytest.param(
            HEADER + ROWS + "c.png,a,holdout\n",
            "row 14: expected a split such as train, validation, test, got 'holdout'",
            None,
            id="split of another name",
        ),
        pytest.param(
            HEADER + ROWS + "train/a1.png,a,test\n",
            "expected each image once, got 'train/a1.png' in rows 3 and 14",
            None,
            id="an image in two splits",
        ),
        pytest.param(HEADER + ROWS + '"c.png,a,test\n', "expected a CSV that can be read", None, id="quote left open"),
        pytest.param(HEADER.encode() + b"caf\xe9.png,a,test\n", "expected text in UTF-8, got", None, id="Latin-1"),
        pytest.param(
            HEADER + ROWS.replace(",test", ",train"),
            "expected rows of the split test, got none",
            None,
            id="no test rows",
        ),
        pytest.param(
            HEADER + ROWS.replace(",train", ",test"),
            "expected rows of the split train, got none",
            None,
            id="no train rows",
        ),
        pytest.param(
            HEADER + ROWS.replace(",b,", ",a,"), "labels of at least two classes, got 'a'", None, id="one class"
        ),
        pytest.param(
            HEADER + ROWS + "c.png,c,train\nd.png,c,train\n",
            "at least 1 test images of each class, got 0 of 'c'",
            None,
            id="class that is never tested",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", ",0,").replace(",b,", ",2,"),
            "row 5: expected a label from 0 to 1 or a name of labels.txt, got '2'",
            beside("a\nb\n"),
            id="integer beyond the labels",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", ",-1,"),
            "row 2: expected a label from 0 to 1 or a name of labels.txt, got '-1'",
            beside("a\nb\n"),
            id="negative integer",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", ",1.0,"),
            "row 2: expected a label from 0 to 1 or a name of labels.txt, got '1.0'",
            beside("a\nb\n"),
            id="integer that became a decimal",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", f",{'9' * 5000},"),
            "row 2: expected a label from 0 to 1 or a name of labels.txt, got '999",
            beside("a\nb\n"),
            id="integer of 5,000 digits",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", ",1_0,"),
            "row 2: expected a label from 0 to 11 or a name of labels.txt, got '1_0'",
            beside("\n".join("abcdefghijkl")),
            id="only digits are an integer",
        ),
        pytest.param(
            HEADER + ROWS.replace(",a,", ",3,").replace(",b,", ",4,"),
            "labels.txt: expected no name that is a number, unless it is that of its line, counted from 0, got '3'",
            beside("3\n4\n5\n6\n7\n"),
            id="a number that may be a name or a line",
        ),
        pytest.param(HEADER + ROWS, "'a' in lines 1 and 2", beside("a\na\n"), id="labels.txt that names one twice"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str | bytes, says: str, prepare: Callable[[Path], None] | None):
    file = write(tmp_path, text)
    if prepare is not None:
        prepare(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(str(file))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value) or caught.value.subject == "data"
