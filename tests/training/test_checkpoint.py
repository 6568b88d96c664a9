import errno
import json
import os

import pytest
import torch
from torch import nn

from cognates.errors import StorageError
from cognates.optim import build, parameter_groups
from cognates.training import checkpoint, storage
from cognates.training.checkpoint import Progress, Saver, load_training, recorded, save_training


def trained(name="adamw", steps=3):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    groups = parameter_groups(module, weight_decay=0.1)
    optimiser = build(name, groups, learning_rate=0.1, momentum=0.9)
    for _ in range(steps):
        step(module, optimiser)
    return module, optimiser


def step(module, optimiser):
    optimiser.zero_grad()
    x = torch.linspace(-1, 1, 15).view(5, 3)
    module(x).square().sum().backward()
    optimiser.step()


def same(module, other):
    states = module.state_dict(), other.state_dict()
    assert len(states[0]) == 9
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_an_optimiser_goes_on_bit_by_bit_from_a_checkpoint(tmp_path, name):
    module, optimiser = trained(name)
    save_training(tmp_path, module, optimiser, Progress(3, 10, 1.5, 2, "abc"))
    other, restored = trained(name, steps=0)
    assert load_training(tmp_path, other, restored) == (Progress(3, 10, 1.5, 2, "abc"), None)
    assert same(module, other)
    for pair in ((module, optimiser), (other, restored)):
        step(*pair)
        step(*pair)
    assert same(module, other)


def test_a_checkpoint_holds_no_pickle_and_leaves_nothing_beside_it(tmp_path):
    module, optimiser = trained()
    for number in (1, 2):
        save_training(tmp_path, module, optimiser, Progress(number))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["optimiser.safetensors", "state.json", "weights.safetensors"]
    assert recorded(tmp_path) == Progress(2)


def test_a_run_without_a_checkpoint_starts_at_step_zero(tmp_path):
    module, optimiser = trained(steps=0)
    assert load_training(tmp_path, module, optimiser) == (Progress(), None)
    assert recorded(tmp_path) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimiser.safetensors", "state.json"])
def test_a_checkpoint_cut_in_half_is_an_error_that_names_the_file(tmp_path, name):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    path = tmp_path / "checkpoint" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StorageError, match=name) as caught:
        load_training(tmp_path, module, optimiser)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_noticed(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    path = tmp_path / "checkpoint" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="another one"):
        load_training(tmp_path, module, optimiser)


def test_a_missing_file_is_an_error(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    (tmp_path / "checkpoint" / "optimiser.safetensors").unlink()
    with pytest.raises(StorageError, match="No such file"):
        load_training(tmp_path, module, optimiser)


def test_a_damaged_checkpoint_falls_back_on_the_one_before_it_and_says_so(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    step(module, optimiser)
    save_training(tmp_path, module, optimiser, Progress(4))
    # as if the process had been killed before the old one was removed
    earlier, second = trained()
    save_training(tmp_path / "elsewhere", earlier, second, Progress(3))
    (tmp_path / "elsewhere" / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint" / "weights.safetensors").write_bytes(b"half")
    progress, note = load_training(tmp_path, module, optimiser)
    assert progress.step == 3
    assert note is not None
    assert "The checkpoint before it is used instead" in note
    assert same(module, earlier)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert recorded(tmp_path) == Progress(3)
    assert load_training(tmp_path, module, optimiser) == (Progress(3), None)
    save_training(tmp_path, module, optimiser, Progress(4))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_keeps_the_previous_checkpoint_and_says_so(tmp_path, monkeypatch):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    before, _ = trained()
    step(module, optimiser)
    real, written = storage.write_synced, []

    def full(path, data):
        written.append(path.name)
        if len(written) == 2:
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(storage, "write_synced", full)
    with pytest.raises(StorageError, match=r"No space left on device.*step 3 is intact") as caught:
        save_training(tmp_path, module, optimiser, Progress(4))
    assert len(written) == 2
    assert "cognates train --resume" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    other, restored = trained(steps=0)
    assert load_training(tmp_path, other, restored)[0].step == 3
    assert same(other, before)


def test_a_full_disk_at_the_first_checkpoint_says_that_there_is_none(tmp_path, monkeypatch):
    module, optimiser = trained()

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "write_synced", full)
    with pytest.raises(StorageError, match="there is none before it"):
        save_training(tmp_path, module, optimiser, Progress(1))


def test_tensors_of_another_model_are_refused(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3))
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(StorageError, match="code has changed"):
        load_training(tmp_path, other, optimiser)


def test_tied_parameters_are_saved_and_come_back_tied(tmp_path):
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    module[1].weight = module[0].weight
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    save_training(tmp_path, module, optimiser, Progress(1))
    with torch.no_grad():
        module[0].weight.zero_()
    load_training(tmp_path, module, optimiser)
    assert module[1].weight is module[0].weight
    assert module[0].weight.abs().sum() > 0


def test_atomic_writing_replaces_a_file_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    storage.write_atomic(path, b"one")
    storage.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"

    def full(path, data):
        path.write_bytes(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "write_synced", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.write_atomic(path, b"three")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.json", b"two")]


def test_saving_is_due_by_the_clock_and_at_cheap_ends_of_epochs(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def slow(*_):
        now[0] += 1.0

    monkeypatch.setattr(checkpoint, "save_training", slow)
    module, optimiser = trained(steps=0)
    saver = Saver(tmp_path, module, optimiser, minutes=2.0)
    assert not saver.due(epoch_end=False)
    assert saver.due(epoch_end=True)  # nothing is known of the cost yet
    saver.save(Progress(1))  # takes a second
    now[0] += 49.0
    assert not saver.due(epoch_end=True)  # a second of 49 is more than 2 %
    now[0] += 2.0
    assert saver.due(epoch_end=True)
    assert not saver.due(epoch_end=False)
    now[0] += 70.0
    assert saver.due(epoch_end=False)  # two minutes are over
    assert Saver(tmp_path, module, optimiser, minutes=0.0).due(epoch_end=False)


def test_the_record_of_a_checkpoint_is_json_that_a_person_can_read(tmp_path):
    module, optimiser = trained()
    save_training(tmp_path, module, optimiser, Progress(3, 10, 1.5, 0, "abc"))
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert state["step"] == 3
    assert set(state["sha256"]) == {"weights.safetensors", "optimiser.safetensors"}
