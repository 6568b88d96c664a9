"""Folders of images: what counts, what the folders mean, what cannot be looked at."""

import errno
import json
import os
import sys

import numpy as np
import pytest

from cognates.data import folder as module
from cognates.data.folder import open_folder
from cognates.errors import DataError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def named(source, split):
    return [str(path) for path in source.path[source.splits[split].rows]]


def labelled(source):
    names = source.target_names["label"]
    return {str(p): names[i] for p, i in zip(source.path, source.targets["label"], strict=True)}


def test_files_of_any_depth_and_case_count_and_other_names_do_not(tmp_path):
    touch(tmp_path, "a.jpg", "b/c/d/e/f.PNG", "b/g.Tiff", "h.webp")
    touch(tmp_path, ".DS_Store", "Thumbs.db", "notes.txt", "._a.jpg", "jpg", "b/.hidden/x.jpg")
    touch(tmp_path, "__MACOSX/a.jpg", "b/@eaDir/a.jpg", "a.jpg.txt")
    source = open_folder(tmp_path)
    assert source.path.tolist() == ["a.jpg", "b/c/d/e/f.PNG", "b/g.Tiff", "h.webp"]
    assert source.whole().problems == ()
    assert source.kind == "files"
    assert source.native_size is None


def test_folders_deeper_than_the_recursion_limit_are_walked(tmp_path):
    depth = 400
    touch(tmp_path, "d/" * depth + "a.jpg")
    limit = sys.getrecursionlimit()
    # Lowered, as pytest could not clean up folders deeper than the usual 1,000.
    sys.setrecursionlimit(300)
    try:
        listing = module.walk(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert [path.count("/") for path, _, _ in listing.files] == [depth]


def test_train_val_and_test_folders_are_splits_and_the_next_level_labels(tmp_path):
    for split, count in (("train", 3), ("valid", 2), ("TEST", 1)):
        touch(tmp_path, *(f"{split}/{c}/{i}.jpg" for c in "ab" for i in range(count)))
    source = open_folder(tmp_path)
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    assert named(source, "test") == ["TEST/a/0.jpg", "TEST/b/0.jpg"]
    assert labelled(source)["valid/b/1.jpg"] == "b"
    assert source.targets["label"].dtype == np.int64


def test_val_is_the_test_set_where_there_is_no_other(tmp_path):
    touch(tmp_path, *(f"{s}/{c}/{i}.jpg" for s in ("train", "val") for c in "ab" for i in range(3)))
    source = open_folder(tmp_path)
    assert list(source.splits) == ["train", "test"]
    assert all(path.startswith("val/") for path in named(source, "test"))
    assert "val is the test set" in source.note


def test_without_split_folders_the_first_level_is_the_label_and_the_parts_are_stratified(tmp_path):
    touch(tmp_path, *(f"cat/{i}.jpg" for i in range(20)), *(f"dog/x/{i}.jpg" for i in range(10)))
    source = open_folder(tmp_path)
    test = named(source, "test")
    assert len(test) == 6
    assert sum(path.startswith("cat/") for path in test) == 4
    assert labelled(source)["dog/x/3.jpg"] == "dog"
    assert "80/20" in source.note
    assert "stratified" in source.note


def test_a_lone_train_folder_is_divided_and_beside_others_it_is_a_class(tmp_path):
    touch(tmp_path, *(f"train/{c}/{i}.jpg" for c in "ab" for i in range(5)))
    source = open_folder(tmp_path)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 8, "test": 2}
    assert source.target_names["label"] == ("a", "b")
    touch(tmp_path, *(f"plane/{i}.jpg" for i in range(10)))
    source = open_folder(tmp_path)
    assert source.target_names["label"] == ("plane", "train")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 16, "test": 4}


def test_images_outside_of_the_splits_are_in_the_whole_only_and_the_note_says_so(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "cover.jpg", "extra/1.jpg")
    source = open_folder(tmp_path)
    assert len(source.splits["train"]) == 2
    assert len(source.splits["test"]) == 1
    assert source.path[source.whole().rows].tolist() == [
        *("cover.jpg", "extra/1.jpg", "test/a/1.jpg", "train/a/1.jpg", "train/b/1.jpg")
    ]
    said = "2 images outside of train, test are left out of training and evaluation, e.g. cover.jpg"
    assert said in source.note
    assert source.target_names["label"] == ("a", "b")
    assert source.targets["label"].tolist() == [-1, -1, 0, 0, 1]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["1.jpg", "2.jpg"], "lie in no class folders"),
        (["images/1.jpg", "images/2.jpg"], "all images lie in one folder, 'images'"),
        (
            ["a/1.jpg", "b/1.jpg", "stray.jpg"],
            "1 of 3 images lie in no class folder, e.g. stray.jpg",
        ),
        (["train/1.jpg", "test/1.jpg"], "lie in no class folders"),
    ],
)
def test_without_class_folders_for_all_there_are_no_labels(tmp_path, names, note):
    touch(tmp_path, *names)
    source = open_folder(tmp_path)
    assert source.targets == {}
    assert source.target_names == {}
    assert note in source.note


def test_classes_json_gives_readable_names(tmp_path):
    touch(tmp_path, "train/n01/1.jpg", "train/n02/1.jpg", "val/n01/1.jpg", "val/n02/1.jpg")
    (tmp_path / "classes.json").write_text(json.dumps({"n01": "tench"}))
    assert open_folder(tmp_path).target_names["label"] == ("tench", "n02")
    (tmp_path / "classes.json").write_text("[1]")
    assert open_folder(tmp_path).target_names["label"] == ("n01", "n02")


def test_directory_loops_and_dead_links_are_problems_and_other_links_are_followed(tmp_path):
    root = tmp_path / "root"
    touch(root, "a/1.jpg", "b/1.jpg")
    touch(tmp_path, "elsewhere/2.jpg")
    (root / "a" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "dead.jpg").symlink_to("nothing.jpg")
    (root / "dead").symlink_to("nothing")
    (root / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "link.jpg").symlink_to("a/1.jpg")
    listing = module.walk(root)
    assert [path for path, _, _ in listing.files] == [
        "a/1.jpg",
        "b/1.jpg",
        "b/more/2.jpg",
        "link.jpg",
    ]
    assert listing.problems == [
        ("a/up", "directory loop"),
        ("dead.jpg", "link to a file that does not exist"),
        ("self", "directory loop"),
        ("self.jpg", "directory loop"),
    ]


def test_problems_belong_to_the_split_they_lie_in(tmp_path):
    touch(tmp_path, "train/1.jpg", "val/1.jpg")
    (tmp_path / "val" / "loop").symlink_to(".")
    (tmp_path / "loop").symlink_to(".")
    source = open_folder(tmp_path)
    assert source.splits["test"].problems == (("val/loop", "directory loop"),)
    assert source.splits["train"].problems == (("loop", "directory loop"),)
    assert len(source.whole().problems) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_pipes_are_problems(tmp_path):
    touch(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert module.walk(tmp_path).problems == [("pipe.jpg", "not a regular file")]


def test_files_and_folders_without_permission_are_problems(tmp_path, monkeypatch):
    # Patched and not chmod'ed, as an administrator may read everything.
    touch(tmp_path, "1.jpg", "secret.jpg", "vault/1.jpg")
    scandir, access = os.scandir, os.access

    def refuse(path):
        if str(path).endswith("vault"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(module.os, "scandir", refuse)
    monkeypatch.setattr(
        module.os, "access", lambda path, mode: "secret" not in str(path) and access(path, mode)
    )
    listing = module.walk(tmp_path)
    assert [path for path, _, _ in listing.files] == ["1.jpg"]
    assert listing.problems == [("secret.jpg", "no permission"), ("vault", "no permission")]


def test_missing_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_folder(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file"):
        open_folder(tmp_path / "file")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    touch(tmp_path, "empty/notes.txt")
    with pytest.raises(DataError, match=r"Expected image files in .*, got none at any depth: put"):
        open_folder(tmp_path / "empty")
    (tmp_path / "empty" / "loop").symlink_to(".")
    with pytest.raises(DataError, match=r"unreadable: loop \(directory loop\)"):
        open_folder(tmp_path / "empty")


def test_the_fingerprint_follows_names_sizes_and_times(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    before = open_folder(tmp_path).fingerprint
    assert open_folder(tmp_path).fingerprint == before
    touch(tmp_path, "notes.txt")
    assert open_folder(tmp_path).fingerprint == before
    os.utime(tmp_path / "1.jpg", ns=(0, 1))
    changed = open_folder(tmp_path).fingerprint
    assert changed != before
    (tmp_path / "2.jpg").rename(tmp_path / "3.jpg")
    renamed = open_folder(tmp_path).fingerprint
    assert renamed != changed
    (tmp_path / "3.jpg").unlink()
    assert open_folder(tmp_path).fingerprint != renamed


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        touch(tmp_path, name)
    except OSError as error:
        if error.errno not in (errno.EILSEQ, errno.EINVAL):
            raise
        pytest.skip("this file system wants UTF-8")
    source = open_folder(tmp_path)
    assert source.path.tolist() == [name]
    json.dumps(source.fingerprint).encode()
