"""The order of images and the thread that reads them ahead."""

import gc
import threading
import time

import numpy as np
import pytest
import torch

from cognates.data.images import Images
from cognates.data.loader import batches, gather, permutation, steps_per_epoch
from cognates.errors import ConfigError

N, SIZE = 50, 4


def images(n=N):
    """Return images whose every pixel is their position."""
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, SIZE, SIZE))
    return Images(pixels=np.ascontiguousarray(pixels), dataset="test", split="train")


def read(**options):
    options = {"seed": 0, "start_step": 0, "stop_step": 5, "batch_size": 12, **options}
    with batches(images(), **options) as loaded:
        return list(loaded)


def indices(loaded):
    return [batch.index.tolist() for batch in loaded]


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "cognates-loader"]


def test_pixels_belong_to_their_index():
    loaded = read(stop_step=9)
    assert len(loaded) == 9
    for batch in loaded:
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.shape == (12, 3, SIZE, SIZE)
        assert batch.index.dtype == torch.int64
        torch.testing.assert_close(batch.pixels[:, 1, 2, 3].long(), batch.index)


def test_an_epoch_has_no_image_twice_and_the_rest_is_left_out():
    loaded = read(stop_step=8)
    assert steps_per_epoch(N, 12) == 4
    epochs = [np.concatenate(indices(loaded)[e * 4 : e * 4 + 4]).tolist() for e in range(2)]
    assert [len(set(epoch)) for epoch in epochs] == [48, 48]
    assert epochs[0] != epochs[1]
    assert epochs[0] == permutation(0, 0, N)[:48].tolist()
    assert epochs[1] == permutation(0, 1, N)[:48].tolist()


def test_the_order_is_a_function_of_seed_and_epoch():
    np.testing.assert_array_equal(permutation(3, 5, 100), permutation(3, 5, 100))
    assert not np.array_equal(permutation(3, 5, 100), permutation(3, 6, 100))
    assert not np.array_equal(permutation(3, 5, 100), permutation(4, 5, 100))
    assert sorted(permutation(0, 0, 1000).tolist()) == list(range(1000))
    # Frozen: another order would change every run and break resuming one.
    assert permutation(0, 0, 8).tolist() == [3, 1, 7, 0, 5, 6, 4, 2]


def test_starting_anywhere_gives_what_an_undisturbed_run_reads():
    whole = indices(read(stop_step=11))
    for start in range(11):
        assert indices(read(start_step=start, stop_step=11)) == whole[start:]


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (12, 1)])
def test_ranks_and_parts_are_contiguous_slices_of_the_global_batch(world, parts):
    whole = indices(read())
    shares = [read(rank=rank, world=world, parts=parts) for rank in range(world)]
    for step in range(5):
        gathered = []
        for part in range(parts):
            for share in shares:
                batch = share[step * parts + part]
                assert (batch.step, batch.part) == (step, part)
                assert batch.start == len(gathered)
                gathered += batch.index.tolist()
        assert gathered == whole[step]


def test_reading_may_begin_within_a_step():
    whole = read(parts=3)
    later = read(parts=3, start_step=2, part=1)
    assert [(batch.step, batch.part) for batch in later][:3] == [(2, 1), (2, 2), (3, 0)]
    assert indices(later) == indices(whole)[7:]


def test_batches_that_do_not_fit_are_configuration_errors():
    for size in (51, 0):
        with pytest.raises(ConfigError, match=f"between 1 and the 50 training images, got {size}"):
            steps_per_epoch(N, size)
        with pytest.raises(ConfigError, match="choose a smaller batch"):
            batches(images(), seed=0, start_step=0, stop_step=1, batch_size=size)
    with pytest.raises(ConfigError, match="divisible by 5 micro-batches x 1"):
        batches(images(), seed=0, start_step=0, stop_step=1, batch_size=12, parts=5)
    assert loader_threads() == []


def test_reading_goes_on_while_the_consumer_works_and_waiting_is_counted():
    slow = SlowPixels(0.05)
    loaded = batches(
        Images(pixels=slow, dataset="", split=""), seed=0, start_step=0, stop_step=4, batch_size=10
    )
    with loaded:
        next(loaded)
        assert loaded.wait_seconds >= 0.04
        time.sleep(0.3)
        before = loaded.wait_seconds
        next(loaded)
        next(loaded)
        # Both were read while this thread slept; 0.05 s each if they had not been.
        assert loaded.wait_seconds - before < 0.05


def test_an_error_of_the_thread_reaches_the_consumer_and_ends_the_thread():
    failing = SlowPixels(0.0, fail_at=2)
    loaded = batches(
        Images(pixels=failing, dataset="", split=""),
        seed=0,
        start_step=0,
        stop_step=9,
        batch_size=10,
    )
    next(loaded)
    next(loaded)
    with pytest.raises(OSError, match="the disk is gone"):
        next(loaded)
    assert loader_threads() == []
    with pytest.raises(StopIteration):
        next(loaded)


def test_threads_end_with_the_data_with_close_and_with_the_iterator():
    assert len(read()) == 5
    assert loader_threads() == []
    loaded = batches(images(), seed=0, start_step=0, stop_step=10_000, batch_size=10)
    next(loaded)
    assert len(loader_threads()) == 1
    loaded.close()
    loaded.close()
    assert loader_threads() == []
    with pytest.raises(StopIteration):
        next(loaded)
    dropped = batches(images(), seed=0, start_step=0, stop_step=10_000, batch_size=10)
    next(dropped)
    del dropped
    gc.collect()
    assert loader_threads() == []


def test_no_steps_are_no_batches():
    assert read(start_step=3, stop_step=3) == []
    assert loader_threads() == []


def test_gathered_pixels_are_a_copy_that_can_be_written(tmp_path):
    np.save(tmp_path / "a.npy", images().pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    batch = gather(mapped, np.array([3, 1, 3]))
    batch += 1
    assert batch[:, 0, 0, 0].tolist() == [4, 2, 4]
    assert mapped[3].max() == 3


class SlowPixels(np.ndarray):
    """An array that takes its time, or fails, when rows are taken from it."""

    def __new__(cls, seconds, fail_at=None):
        array = images().pixels.view(cls)
        array.seconds, array.fail_at, array.taken = seconds, fail_at, 0
        return array

    def take(self, indices, axis=None, out=None, mode="raise"):
        if self.taken == self.fail_at:
            raise OSError("the disk is gone")
        self.taken += 1
        time.sleep(self.seconds)
        return np.asarray(self).take(indices, axis=axis, out=out, mode=mode)
