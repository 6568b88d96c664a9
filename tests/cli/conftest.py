"""A tiny finished run, made through the command line."""

import os

import numpy as np
import pytest

from cognates.cli.main import main


def images(n, *, seed, size=8):
    """Two kinds of image that anything can tell apart: bright above, or bright on the left."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = generator.integers(0, 120, (n, size, size), dtype=np.uint8)
    pixels[labels == 0, : size // 2] += 120
    pixels[labels == 1, :, : size // 2] += 120
    return {"images": pixels, "labels": labels}


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Keep the tests' images out of the user's cache, for every test of the session below."""
    before = os.environ.get("COGNATES_CACHE")
    os.environ["COGNATES_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["COGNATES_CACHE"]
    else:
        os.environ["COGNATES_CACHE"] = before


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Return the SOURCE of 96 training and 40 test images."""
    folder = tmp_path_factory.mktemp("arrays")
    np.savez(folder / "train.npz", **images(96, seed=0))
    np.savez(folder / "test.npz", **images(40, seed=1))
    return f"npz:{folder}"


@pytest.fixture(scope="session")
def small():
    """Return the options of a run of seconds."""
    return [
        *("--encoder", "mlp", "--epochs", "1", "--batch-size", "32", "--device", "cpu", "--quiet"),
        *("--set", "method.dim=16", "method.hidden=16", "method.predictor_hidden=8"),
    ]


@pytest.fixture(scope="session")
def run(source, small, tmp_path_factory):
    """Return the folder of a trained and evaluated run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "vi-simsiam", "--data", source, "--out", str(out), *small]) == 0
    assert main(["evaluate", str(out), "--grid", "2", "--quiet"]) == 0
    return out


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command, expects a code and one sentence, and returns it."""

    def check(*arguments, code=2):
        found = main([str(argument) for argument in arguments])
        complaint = capsys.readouterr().err
        assert found == code, complaint
        assert "Traceback" not in complaint
        lines = complaint.strip().splitlines()
        assert len(lines) == 1, complaint
        assert lines[0].startswith("error: ")
        return lines[0]

    return check
