"""Images with captions: formats, splits, what belongs to what, and the cache."""

import json
import re

import numpy as np
import pytest

from cognates.data import sources
from cognates.data.cache import load
from cognates.data.captions import read_captions
from cognates.data.pairs import open_pairs
from cognates.data.sources import open_source
from cognates.errors import DataError

SAID = {f"{i}.png": (f"a {i} in red", f"red, with {i}") for i in range(10)}


@pytest.fixture
def folder(tmp_path, flat):
    for i in range(10):
        flat(tmp_path / "set" / "images" / f"{i}.png", 20 * i)
    return tmp_path / "set"


def lines(separator, *, heading="", number=False, quote=""):
    rows = [heading] if heading else []
    for image, captions in SAID.items():
        for k, caption in enumerate(captions):
            name = f"{image}#{k}" if number else image
            rows.append(f"{name}{separator}{quote}{caption}{quote}")
    return "\n".join(rows) + "\n"


FORMATS = {
    "captions.json": json.dumps({"captions": {k: list(v) for k, v in SAID.items()}}),
    "captions.csv": lines(",", heading="image,caption", quote='"'),
    "captions.txt": lines(",", heading="image,caption"),
    "captions.tsv": lines("\t"),
    "Flickr8k.token.txt": lines("\t", number=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_captions(folder, name):
    (folder / name).write_text(FORMATS[name], encoding="utf8")
    source = open_pairs(folder)
    found = {path.removeprefix("images/"): said for path, said in zip(
        source.path.tolist(), source.captions, strict=True
    )}  # fmt: skip
    assert found == SAID
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 8, "test": 2}
    assert "20 captions of 10 images" in source.note


def test_lists_beside_the_captions_are_the_splits_and_the_rest_is_of_none(folder):
    (folder / "Flickr8k.token.txt").write_text(FORMATS["Flickr8k.token.txt"], encoding="utf8")
    parts = {"train": range(5), "dev": range(5, 7), "test": range(7, 9)}
    for part, which in parts.items():
        text = "".join(f"{i}.png\n" for i in which)
        (folder / f"Flickr_8k.{part}Images.txt").write_text(text, encoding="utf8")
    source = open_pairs(folder / "Flickr8k.token.txt")
    assert {k: v.rows.tolist() for k, v in source.splits.items()} == {
        "train": [0, 1, 2, 3, 4],
        "val": [5, 6],
        "test": [7, 8],
    }
    (folder / "captions.json").write_text(
        json.dumps(
            {
                "captions": {k: list(v) for k, v in SAID.items()},
                "splits": {"train": ["3.png", "1.png"], "dev": ["0.png"], "rest": ["2.png"]},
            }
        )
    )
    source = open_pairs(folder)
    assert {k: v.rows.tolist() for k, v in source.splits.items()} == {"train": [1, 3], "test": [0]}


def test_images_without_captions_are_left_out_and_captions_without_images_are_problems(folder):
    some = {k: list(v) for k, v in SAID.items() if k not in ("2.png", "4.png")}
    some |= {"lost.png": ["nobody"], "0.png": [" ", "zero"]}
    (folder / "captions.json").write_text(json.dumps({"captions": some}))
    source = open_pairs(folder)
    assert len(source.captions) == len(source.path) == 8
    assert source.captions[0] == ("zero",)
    assert source.whole().problems == (("lost.png", "no file of this name, or several"),)
    assert "2 images have no caption" in source.note


def test_cached_images_keep_their_captions_and_new_captions_are_other_data(folder):
    (folder / "captions.json").write_text(FORMATS["captions.json"])
    spec = f"pairs:{folder}"
    (folder / "images" / "3.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="Left out 1"):
        images = load(spec, "all", image_size=7, max_unreadable=0.2, progress=False)
    assert len(images) == len(images.captions) == 9
    for path, said, pixels in zip(images.path, images.captions, images.pixels, strict=True):
        number = int(path.split("/")[1].split(".")[0])
        assert said == SAID[f"{number}.png"]
        assert abs(int(pixels.mean()) - 20 * number) <= 1
    part = images.take(np.array([4, 1]))
    assert part.captions == (images.captions[4], images.captions[1])
    assert part.pixels.shape == (2, *images.pixels.shape[1:])
    before = images.digest
    text = FORMATS["captions.json"].replace("red", "blue")
    (folder / "captions.json").write_text(text)
    with pytest.warns(UserWarning, match="Left out 1"):
        again = load(spec, "all", image_size=7, max_unreadable=0.2, progress=False)
    assert again.digest != before
    assert "blue" in again.captions[0][0]


def test_a_bare_name_with_captions_is_opened_with_them(folder, monkeypatch):
    (folder / "captions.json").write_text(FORMATS["captions.json"])
    monkeypatch.setenv("COGNATES_DATA", str(folder.parent))
    folder.rename(folder.parent / "flickr8k")
    source = open_source("flickr8k")
    assert (source.name, len(source.captions)) == ("flickr8k", 10)
    assert sources.absolute("pairs:a/../b") == sources.absolute("pairs:b/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got another"),
        ('{"captions": {"0.png": [3]}}', "not text"),
        ('{"captions": {}}', "got none"),
        ("[" * 100_000, "got another"),
        ('{"captions": {"0.png": ["\\ud800"]}}', "surrogates not allowed"),
    ],
)
def test_a_file_that_holds_no_captions_is_named(tmp_path, text, message):
    file = tmp_path / "captions.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_captions(file)


HEADINGS = {
    "image,number,caption": "{i}.png,{k},{said}",
    "caption,image": '"{said}",{i}.png',
    "img,description": '{i}.png,"{said}"',
    "number,file_name,text,more": '{k},{i}.png,"{said}",x',
}


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_says_which_columns_are_read(folder, heading):
    rows = [
        HEADINGS[heading].format(i=i, k=k, said=SAID[f"{i}.png"][k])
        for i in range(10)
        for k in range(2)
    ]
    text = "\n".join([heading, *rows])
    for name, written in {"a.csv": text, "b.tsv": text.replace('"', "")}.items():
        file = folder / name
        file.write_text(written)
        if name == "b.tsv":
            cells = [heading.split(","), *([c.strip('"') for c in cut(row)] for row in rows)]
            file.write_text("\n".join("\t".join(row) for row in cells))
        assert read_captions(file).captions == SAID


def cut(row):
    """Return the cells of a row; the comma in a caption has a space behind it."""
    return re.split(r",(?! )", row)


def test_a_caption_may_be_a_word_of_headings_and_have_several_lines(folder):
    file = folder / "captions.csv"
    file.write_text('0.png,image\n1.png,"two\nlines, and more"\n1.png,three "quotes" within\n')
    assert read_captions(file).captions == {
        "0.png": ("image",),
        "1.png": ("two lines, and more", 'three "quotes" within'),
    }


TABLES = {
    "number,image,said\n1,0.png,a\n": "one column 'caption' beside 'image'.*number, image, said",
    "image\n0.png\n": "one column 'caption'",
    "caption,image\na, b,0.png\n": "2 columns .* got 3 in row 2",
    '0.png,"open\n1.png,"a thing"\n': "one caption in line 1 .* close its quotation marks",
    '0.png,a\n\n1.png,"open' + " word" * 30_000: "another in line 3 .*quotation marks",
}


@pytest.mark.parametrize("text", TABLES)
def test_tables_that_would_be_misread_are_refused(folder, text):
    (folder / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=TABLES[text]):
        open_pairs(folder)


def test_captions_and_lists_that_are_not_utf8_are_refused(folder):
    (folder / "captions.csv").write_bytes(b"0.png,caf\xe9\n")
    with pytest.raises(DataError, match=r"in UTF-8 in .*captions\.csv', got byte 0xe9 at 9"):
        open_pairs(folder)
    (folder / "captions.csv").write_text("0.png,caf\u00e9\n", encoding="utf-8-sig")
    (folder / "train.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match="a list of images in UTF-8"):
        open_pairs(folder)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"training": ["0.png"], "test": ["1.png"]}, "a list 'train' .* got test, training"),
        ({"test": ["1.png"]}, "a list 'train'"),
        ({"train": ["0.png"], "test": ["1", "2"]}, "list 'test' .* got none of 2, e.g. 1: name"),
        ({"train": [["0.png"]]}, "got another"),
        ({"train": [0]}, "not text"),
    ],
)
def test_splits_that_would_leave_training_to_chance_are_refused(folder, splits, message):
    said = {k: list(v) for k, v in SAID.items()}
    (folder / "captions.json").write_text(json.dumps({"captions": said, "splits": splits}))
    with pytest.raises(DataError, match=message):
        open_pairs(folder)


def test_folders_without_what_is_needed_are_data_errors(folder):
    with pytest.raises(DataError, match="no such folder"):
        open_pairs(folder / "missing")
    with pytest.raises(DataError, match="Expected a captions file"):
        open_pairs(folder)
    (folder / "captions.csv").write_text("image,caption\nelsewhere.png,a thing\n")
    with pytest.raises(DataError, match="got none of 1"):
        open_pairs(folder)
