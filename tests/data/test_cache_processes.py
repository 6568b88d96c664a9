"""Several processes at one cache, some of which die."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np

from cognates.data import build, lock
from cognates.data.cache import load


def test_what_a_killed_process_left_is_swept(photos, cache_root, entries):
    first = load(f"folder:{photos}", "train", image_size=14, progress=False)
    folder = cache_root / "images"
    (folder / first.digest).rename(folder / f"{first.digest}.deadbeef.new")
    load(f"folder:{photos}", "train", image_size=14, progress=False)
    assert entries() == [first.digest]


def test_without_locks_the_slower_of_two_builders_uses_the_faster_ones_entry(
    photos, monkeypatch, entries
):
    monkeypatch.setattr(lock, "_try", lambda handle: None)
    fill = build._fill
    seen = []

    def overtaken(file, plan):
        if not seen:
            seen.append("slow")
            load(f"folder:{photos}", "train", image_size=14, progress=False)
            seen.append("fast done")
        return fill(file, plan)

    monkeypatch.setattr(build, "_fill", overtaken)
    images = load(f"folder:{photos}", "train", image_size=14, progress=False)
    assert seen == ["slow", "fast done"]
    assert len(images) == 40
    assert entries() == [images.digest]


BUILDER = """
import sys, time
from cognates.data import build, cache
fill = build._fill
def slow(file, plan):
    print("built", flush=True)
    time.sleep(0.5)
    return fill(file, plan)
build._fill = slow
images = cache.load(sys.argv[1], "train", image_size=14, workers=0, progress=False)
print(images.digest, int(images.pixels.astype("int64").sum()), len(images))
"""


def test_two_processes_that_build_the_same_entry_do_not_corrupt_it(photos, entries):
    command = [sys.executable, "-c", BUILDER, f"folder:{photos}"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0][-3:] == outputs[1][-3:]
    assert sorted(len(output) for output in outputs) == [3, 4], "one builds, the other waits"
    images = load(f"folder:{photos}", "train", image_size=14, progress=False)
    assert outputs[0][-3:] == [images.digest, str(images.pixels.astype(np.int64).sum()), "40"]
    assert entries() == [images.digest]


def test_a_builder_that_is_killed_does_not_block_the_next(photos, entries):
    command = [sys.executable, "-c", BUILDER.replace("0.5", "60"), f"folder:{photos}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "built\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(entries()) == 2, "the lock and the unfinished entry"
    begin = time.monotonic()
    images = load(f"folder:{photos}", "train", image_size=14, progress=False)
    assert time.monotonic() - begin < 20
    assert entries() == [images.digest]


def test_a_script_without_a_main_guard_may_use_workers(photos, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from cognates.data import load\n"
        f"images = load({f'folder:{photos}'!r}, 'all', image_size=14, workers=2, progress=False)\n"
        "print('ran', len(images))\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "ran 80\n"


def test_no_lock_file_and_no_thread_is_left(photos, cache_root, entries):
    before = threading.active_count()
    load(f"folder:{photos}", "train", image_size=14, workers=2, progress=False)
    assert threading.active_count() == before
    assert not [name for name in entries() if name.endswith((".lock", ".new"))]
