"""The commands that act on an uncertainty: rank, select, reject, and embed with another score."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cognates import load
from cognates.cli.main import main

pytestmark = pytest.mark.filterwarnings("default::cognates.errors.UnreadableWarning")


@pytest.fixture
def photos(tmp_path):
    """Return a folder of 11 images with names as people have them, and a text file named .png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(8)] + ['a,"b".png', "line\nbreak.png", "ü é.png"]
    for name in names:
        pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_text("this is no image")
    return folder


def rows(path):
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def test_rank_orders_a_folder_and_lists_what_it_cannot_read(run, photos, tmp_path, capsys):
    out = tmp_path / "ranked.csv"
    arguments = ["rank", str(run), "--data", f"folder:{photos}", "--show", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr()
    listed = rows(out)
    assert [*listed[0]] == ["path", "uncertainty", "percentile"]
    assert len(listed) == 11
    assert {row["path"] for row in listed} == {p.name for p in photos.iterdir()} - {"broken.png"}
    u = [float(row["uncertainty"]) for row in listed]
    assert u == sorted(u, reverse=True)
    model = load(run)
    expected = model.embed([photos / row["path"] for row in listed]).uncertainty.numpy()
    np.testing.assert_allclose(u, expected, rtol=1e-5)
    np.testing.assert_allclose(
        [float(r["percentile"]) for r in listed], model.percentile(expected), atol=0.02
    )
    assert "Left out, because unreadable: 1 file" in said.err
    assert (tmp_path / "ranked-unreadable.txt").read_text().startswith("broken.png\t")
    assert said.out.count(".png") == 4
    assert "11 images by consensus" in said.out
    assert "..." in said.out


def test_rank_without_a_file_names_the_unreadable_and_escapes_names(run, photos, capsys):
    arguments = ["rank", str(run), "--data", f"folder:{photos}", "--score", "norm"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "line\\nbreak.png" in said.out
    assert "line\nbreak" not in said.out
    assert "Left out 1 of 12 files" in said.err
    assert "11 images by norm" in said.out
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_select_prints_names_or_writes_a_list(run, photos, tmp_path, capsys):
    source = f"folder:{photos}"
    assert main(["select", str(run), "--data", source, "--budget", "4", "--quiet"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert len(set(printed)) == 4
    out = tmp_path / "first.parquet"
    more = ["--strategy", "spread", "--seed", "1", "--out", str(out)]
    assert main(["select", str(run), "--data", source, "--budget", "4", *more]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["path", "uncertainty", "percentile"]
    model = load(run)
    paths = sorted(p for p in photos.iterdir() if p.name != "broken.png")
    chosen = model.select(paths, 4, strategy="spread", seed=1)
    by_name = {p.name for p in paths}
    assert set(table["path"].to_pylist()) <= by_name
    assert len(chosen) == 4
    assert "4 of 11 images" in capsys.readouterr().out


def test_reject_splits_a_folder_into_two_lists(run, photos, source, tmp_path, capsys):
    out = tmp_path / "lists"
    arguments = ["reject", str(run), "--data", f"folder:{photos}", "--out", str(out)]
    assert main([*arguments, "--coverage", "0.7"]) == 0
    said = capsys.readouterr()
    kept, rejected = rows(out / "kept.csv"), rows(out / "rejected.csv")
    assert (len(kept), len(rejected)) == (8, 3)  # at least .7 of 11
    assert not {r["path"] for r in kept} & {r["path"] for r in rejected}
    assert max(float(r["uncertainty"]) for r in kept) < min(
        float(r["uncertainty"]) for r in rejected
    )
    assert "Kept 8 of 11" in said.out
    assert (out / "unreadable.txt").read_text().startswith("broken.png\t")
    assert main([*arguments, "--coverage", "1", "--quiet"]) == 0
    assert rows(out / "rejected.csv") == []
    # of the training images themselves their share is kept
    lists = ["--out", str(tmp_path / "of-training"), "--against", "training", "--quiet"]
    assert main(["reject", str(run), "--data", source, "--coverage", "0.5", *lists]) == 0
    trained = [r for r in rows(tmp_path / "of-training" / "kept.csv") if int(r["index"]) < 96]
    assert len(trained) == pytest.approx(48, abs=1)


def test_embed_writes_another_score_with_its_own_percentile(run, source, tmp_path):
    out = tmp_path / "relative.parquet"
    score = ["--score", "relative-distance"]
    assert main(["embed", str(run), "--data", source, "--out", str(out), "--quiet", *score]) == 0
    table = pq.read_table(out)
    model = load(run)
    u = np.array(table["uncertainty"].to_pylist())
    np.testing.assert_allclose(
        u, model.embed(source, score="relative-distance").uncertainty.numpy(), atol=0.006
    )
    percentile = np.array(table["percentile"].to_pylist())
    np.testing.assert_allclose(percentile, model.percentile(u, score="relative-distance"))
    # each training image is left out of the bank that it is compared with
    bank = model.bank.scores["relative-distance"]
    np.testing.assert_allclose(np.sort(u[:96]), np.sort(bank), atol=0.006)
    assert percentile[:96].mean() == pytest.approx(50, abs=1.5)


def test_a_model_gives_every_score_it_names(run, source):
    model = load(run)
    assert model.scores[0] == "consensus"
    assert set(model.scores) == {
        *("concentration", "norm", "knn-distance"),
        *("relative", "relative-distance", "distance-ratio", "consensus"),
    }
    for name in model.scores:
        found = model.rank(source, score=name)
        assert len(found.order) == 136
        assert (np.diff(found.uncertainty[found.order]) <= 0).all()
        assert ((found.percentile >= 0) & (found.percentile <= 100)).all()
    assert model.embed(source).uncertainty.equal(model.embed(source, score="consensus").uncertainty)


def test_what_cannot_be_done_is_said_in_a_sentence(run, source, tmp_path, fails):
    given = (run, "--data", source)
    assert "did you mean 'consensus'" in fails("rank", *given, "--score", "consensuss")
    assert "did you mean 'relative" in fails(
        "embed", *given, "--out", tmp_path / "a.parquet", "--score", "relative-d"
    )
    for score in ("view-disagreement", "max-softmax"):
        said = fails("evaluate", run, "--score", score)
        assert f"got '{score}', which only the evaluation measures" in said
        assert ": choose one of concentration, consensus," in said
    assert "of this model: choose one of concentration" in fails("rank", *given, "--score", "foo")
    assert ".csv or .parquet" in fails("rank", *given, "--out", tmp_path / "list.txt")
    assert "at least 0 images, got -3" in fails("rank", *given, "--show", "-3")
    assert "at least 1 image" in fails("select", *given, "--budget", "0")
    assert "at most all 136" in fails("select", *given, "--budget", "137")
    assert "did you mean 'typical'" in fails(
        "select", *given, "--budget", "3", "--strategy", "typical2"
    )
    for strategy in ([], ["--strategy", "random"]):
        said = fails("select", *given, "--budget", "3", "--score", "norm", *strategy)
        assert f"got 'norm' with '{(['typical', *strategy])[-1]}': leave one of the two out" in said
    out = tmp_path / "lists"
    assert "coverage" in fails("reject", *given, "--out", out, "--coverage", "1.5")
    file = tmp_path / "file"
    file.touch()
    assert "got the file" in fails("reject", *given, "--out", file)
    assert not out.exists()
