"""Decoded once, whole or not at all, and found again."""

import errno
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cognates.data import build, cache, decode
from cognates.data.cache import load, stored_size
from cognates.errors import ConfigError, DataError, StorageError, UnreadableWarning


def bomb():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def spoil(folder):
    """Put one file of every unreadable kind into `folder`; return their reasons by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.jpg").write_text("no image at all\n" * 40)
    Image.effect_noise((200, 200), 80).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "loop").symlink_to("..")
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "Thumbs.db").write_bytes(b"junk")
    (folder / "notes.txt").write_text("junk")
    return {
        "loop": "directory loop",
        "bomb.png": "60000 x 60000 pixels, a decompression bomb (more than 178 million)",
        "cut.jpg": "truncated",
        "empty.png": "empty file",
        "text.jpg": "not an image",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_left_out_listed_and_labels_stay_with_their_images(
    photos, cache_root, workers, entries, flat
):
    reasons = spoil(photos / "train" / "a")
    flat(photos / "train" / "b" / "one.png", 77, size=(1, 1))
    with pytest.warns(UnreadableWarning, match=r"Left out 5 of 46 files of 'photos' \(train\)"):
        images = load(
            f"folder:{photos}",
            "train",
            image_size=14,
            max_unreadable=0.2,
            workers=workers,
            progress=False,
        )
    assert dict(images.unreadable) == {f"train/a/{name}": why for name, why in reasons.items()}
    assert len(images) == len(images.path) == 41
    value = np.array([77 if "one" in p else int(Path(p).stem) for p in images.path.tolist()])
    np.testing.assert_array_equal(images.pixels[:, 0, 0, 0], value)
    np.testing.assert_array_equal(images.pixels[:, 2, 15, 15], value)
    label = np.array(["ab".index(p.split("/")[1]) for p in images.path.tolist()])
    np.testing.assert_array_equal(images.targets["label"], label)
    (entry,) = entries()
    listed = (cache_root / "images" / entry / "unreadable.txt").read_text().splitlines()
    # The loop was met while listing; the other four while decoding.
    assert sorted(listed) == sorted(
        f"{why}\ttrain/a/{name}" for name, why in reasons.items() if name != "loop"
    )
    with pytest.warns(UnreadableWarning):
        again = load(f"folder:{photos}", "train", image_size=14, max_unreadable=0.2, progress=False)
    assert again.unreadable == images.unreadable
    np.testing.assert_array_equal(again.pixels, images.pixels)


def test_too_many_unreadable_files_are_an_error_that_names_some(photos):
    spoil(photos / "train" / "a")
    options = {"image_size": 14, "progress": False}
    with pytest.raises(DataError) as error:
        load(f"folder:{photos}", "train", **options)
    message = str(error.value)
    assert "Expected at most 10% unreadable files" in message
    assert "got 5 of 45 (11%)" in message
    assert "train/a/cut.jpg (truncated)" in message
    assert "--max-unreadable" in message
    with pytest.warns(UnreadableWarning):
        assert len(load(f"folder:{photos}", "train", max_unreadable=0.12, **options)) == 40
    with pytest.raises(DataError, match="at most 0%"):
        load(f"folder:{photos}", "train", max_unreadable=0.0, **options)


def test_a_folder_with_no_readable_image_is_an_error_whatever_the_limit(tmp_path, entries):
    spoil(tmp_path / "photos")
    with pytest.raises(DataError, match=r"at least one readable image .* got none among 3 files"):
        load(f"folder:{tmp_path / 'photos'}", "train", max_unreadable=1.0, progress=False)
    assert entries() == []


def test_a_second_load_decodes_nothing(photos, monkeypatch):
    first = load(f"folder:{photos}", "train", image_size=14, progress=False)

    def fail(*arguments, **options):
        raise AssertionError("built twice")

    monkeypatch.setattr(cache, "build", fail)
    second = load(f"folder:{photos}", "train", image_size=14, progress=False)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.digest == second.digest
    assert isinstance(second.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second.pixels[0] = 0


def test_a_moved_folder_finds_its_entry_and_a_changed_file_another(photos, tmp_path, flat):
    options = {"image_size": 14, "progress": False}
    first = load(f"folder:{photos}", "train", **options)
    moved = photos.rename(tmp_path / "pictures")
    second = load(f"folder:{moved}", "train", **options)
    assert second.digest == first.digest
    assert second.dataset == "pictures"
    flat(moved / "train" / "a" / "00.png", 200, size=(21, 21))
    third = load(f"folder:{moved}", "train", **options)
    assert third.digest != first.digest
    assert third.pixels[0].max() == 200
    (moved / "train" / "a" / "00.png").unlink()
    fourth = load(f"folder:{moved}", "train", **options)
    assert len(fourth) == 39
    assert fourth.digest not in (first.digest, third.digest)


def test_settings_and_splits_have_entries_of_their_own(photos):
    spec, quiet = f"folder:{photos}", {"progress": False}
    loads = [
        load(spec, "train", image_size=14, **quiet),
        load(spec, "test", image_size=14, **quiet),
        load(spec, "all", image_size=14, **quiet),
        load(spec, "train", image_size=16, **quiet),
        load(spec, "train", image_size=14, channels=1, **quiet),
    ]
    assert len({images.digest for images in loads}) == 5
    assert [images.pixels.shape for images in loads] == [
        (40, 3, 16, 16),
        (40, 3, 16, 16),
        (80, 3, 16, 16),
        (40, 3, 19, 19),
        (40, 1, 16, 16),
    ]


@pytest.mark.parametrize(("view", "stored"), [(224, 256), (96, 110), (64, 74), (32, 37), (28, 32)])
def test_files_are_stored_at_eight_sevenths_of_the_view(view, stored):
    assert stored_size(view, None) == stored
    assert round(stored * 7 / 8) in (view, view + 1)


def test_files_default_to_96_pixels_and_arrays_to_their_own_size(tmp_path, photos):
    assert load(f"folder:{photos}", "test", progress=False).pixels.shape == (40, 3, 110, 110)
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 12, 12), np.uint8))
    assert load(f"npz:{tmp_path / 'a.npz'}", "all", progress=False).pixels.shape == (10, 1, 12, 12)


def test_bad_arguments_are_configuration_errors(photos):
    spec = f"folder:{photos}"
    with pytest.raises(ConfigError, match="it has train, test and all"):
        load(spec, "tset", progress=False)
    for option, value in (
        ("image_size", 0),
        ("channels", 2),
        ("max_unreadable", 10),
        ("workers", -1),
    ):
        with pytest.raises(ConfigError, match=str(value)):
            load(spec, "train", **{option: value})


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(
    photos, cache_root, monkeypatch, entries
):
    usage = shutil.disk_usage(cache_root)._replace(free=1000)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="COGNATES_CACHE") as error:
        load(f"folder:{photos}", "train", image_size=14, progress=False)
    assert error.value.exit_code == 4
    assert entries() == []


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_a_disk_that_fills_up_leaves_nothing_behind(photos, tmp_path, monkeypatch, kind, entries):
    from cognates.data import worker

    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker, "write_all", full)
    monkeypatch.setattr(build, "write_all", full)
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 12, 12), np.uint8))
    spec = f"folder:{photos}" if kind == "files" else f"npz:{tmp_path / 'a.npz'}"
    with pytest.raises(StorageError, match="No space left on device") as error:
        load(spec, "train", workers=0, progress=False)
    assert "\n" not in str(error.value)
    assert entries() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_in_a_decoding_process_is_a_storage_error(photos, monkeypatch, entries):
    target = build.Target
    monkeypatch.setattr(build, "Target", lambda file, *rest: target("/dev/full", *rest))
    with pytest.raises(StorageError, match="No space left on device"):
        load(f"folder:{photos}", "train", image_size=14, workers=2, progress=False)
    assert entries() == []


def test_a_cache_folder_that_cannot_be_made_is_a_storage_error(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Expected to write the image cache"):
        load(f"folder:{photos}", "train", progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_leaves_nothing_behind(photos, monkeypatch, workers, entries):
    real = build.run

    def interrupted(*arguments):
        outcomes = real(*arguments)
        yield next(outcomes)
        outcomes.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(f"folder:{photos}", "all", image_size=14, workers=workers, progress=False)
    assert entries() == []


@pytest.mark.parametrize("damage", ["short", "no record", "no pixels", "bad record"])
def test_a_damaged_entry_is_made_again(photos, cache_root, damage, entries):
    first = load(f"folder:{photos}", "train", image_size=14, progress=False)
    expected = np.array(first.pixels)
    entry = cache_root / "images" / first.digest
    if damage == "short":
        data = (entry / "pixels.npy").read_bytes()
        (entry / "pixels.npy").unlink()
        (entry / "pixels.npy").write_bytes(data[:-1])
    elif damage == "bad record":
        (entry / "entry.json").write_text("{")
    else:
        (entry / ("entry.json" if damage == "no record" else "pixels.npy")).unlink()
    again = load(f"folder:{photos}", "train", image_size=14, progress=False)
    np.testing.assert_array_equal(again.pixels, expected)
    assert entries() == [first.digest]


def test_failures_of_the_system_are_tried_again_and_damage_is_not(photos, monkeypatch):
    real = decode._stream
    blocked = {"01.png": PermissionError(13, "Permission denied")}

    def stream(item, stack):
        if Path(item).name in blocked and "train" in item:
            raise blocked[Path(item).name]
        return real(item, stack)

    monkeypatch.setattr(decode, "_stream", stream)
    options = {"image_size": 14, "workers": 0, "progress": False}
    with pytest.warns(UnreadableWarning, match="no permission"):
        assert len(load(f"folder:{photos}", "train", **options)) == 39
    blocked["01.png"] = OSError(errno.EIO, "Input/output error")
    with pytest.warns(UnreadableWarning, match="cannot be read"):
        assert len(load(f"folder:{photos}", "train", **options)) == 39
    blocked.clear()
    assert len(load(f"folder:{photos}", "train", **options)) == 40


def test_progress_says_how_much_is_written_where(photos, cache_root, capfd):
    load(f"folder:{photos}", "train", image_size=14, workers=0)
    printed = " ".join(capfd.readouterr().err.split())
    assert "40 images of 3x16x16, 0.1 MB in" in printed
    assert str(cache_root / "images") in printed
    assert "free)" in printed
    load(f"folder:{photos}", "train", image_size=14, workers=0)
    assert capfd.readouterr().err == ""


def test_an_entry_can_be_opened_by_hand(photos, cache_root):
    images = load(f"folder:{photos}", "train", image_size=14, progress=False)
    entry = cache_root / "images" / images.digest
    assert sorted(path.name for path in entry.iterdir()) == [
        "entry.json",
        "pixels.npy",
        "unreadable.txt",
    ]
    np.testing.assert_array_equal(np.load(entry / "pixels.npy"), images.pixels)
    assert json.loads((entry / "entry.json").read_text())["images"] == 40


def test_the_cache_lies_in_the_users_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("COGNATES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache.sys, "platform", "linux")
    assert cache.cache_folder() == tmp_path / "cognates" / "images"
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache.cache_folder().parts[-4:] == ("Library", "Caches", "cognates", "images")
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "mine"))
    assert cache.cache_folder() == tmp_path / "mine" / "images"


@pytest.mark.parametrize("gaps", [[0], [6], [0, 1, 2], [5, 6], [2, 4], [0, 3, 6], []])
def test_rows_close_up_over_gaps(tmp_path, gaps):
    plan = build.Plan(
        reader=None, rows=np.arange(7), size=2, channels=1, workers=0, progress=False, what=""
    )
    rows = np.repeat(np.arange(7, dtype=np.uint8), 4)
    path = tmp_path / "rows"
    path.write_bytes(b"head" + rows.tobytes())
    with path.open("r+b", buffering=0) as out:
        build._close_gaps(out, 4, gaps, plan)
    kept = [row for row in range(7) if row not in gaps]
    data = np.frombuffer(path.read_bytes()[4 : 4 + 4 * len(kept)], np.uint8)
    np.testing.assert_array_equal(data, np.repeat(kept, 4))
