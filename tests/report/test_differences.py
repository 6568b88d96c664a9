import json

import pytest

from cognates import report
from cognates.report import collect, comparison, differences


@pytest.fixture
def seeds(fake_run, tmp_path):
    """Return a function that writes runs of a name: one for each seed, with changes."""

    def make(name, numbers=(0, 1, 2), **changes):
        return [
            fake_run.write(tmp_path / f"{name}/seed{s}", seed=s, shift=0.01 * s, **changes)
            for s in numbers
        ]

    return make


def edit(run, name, change):
    path = run / f"{name}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def grouped(*runs):
    return collect.group([collect.read(run) for run in runs])


def said(groups):
    return " ".join(comparison.header(groups).warnings)


def texts(table):
    return {row.label: [cell.value for cell in row.cells] for row in table.rows}


def test_runs_that_differ_only_in_their_seed_have_no_difference(seeds):
    (group,) = grouped(*seeds("a"))
    assert differences.within(group) == []
    assert "differ" not in said([group])
    assert "What differs" not in [part.title for part in comparison.parts([group])]


@pytest.mark.parametrize("name", ["torch", "device", "threads", "cognates", "commit"])
def test_another_environment_inside_a_group_is_named_with_its_seeds(seeds, name, tmp_path):
    runs = seeds("a")
    for run, value in zip(runs, ("one", "one", "two"), strict=True):
        edit(run, "environment", lambda data, value=value: data.update({name: value}))
    groups = grouped(*runs)
    assert len(groups) == 1
    assert differences.within(groups[0]) == [(f"environment.{name}", ["one", "one", "two"])]
    assert f"environment.{name}: one (seeds 0, 1), two (seed 2)" in said(groups)
    part = next(part for part in comparison.parts(groups) if part.title == "What differs")
    assert texts(part.tables[0]) == {f"environment.{name}": ["one", "one", "two"]}
    page = report.write(runs, tmp_path / "all.html").read_text(encoding="utf8")
    assert f"environment.{name}" in page.split("What differs")[1].split("</table>")[0]


def test_environments_and_images_that_differ_between_groups_are_named(seeds):
    a, b = seeds("a"), seeds("b", method__dim=64)
    for run in b:
        edit(run, "environment", lambda data: data.update(torch="2.14.0"))
        edit(run, "data", lambda data: data["splits"]["train"].update(images=9000))
    edit(a[1], "environment", lambda data: data.update(torch="2.12.0"))
    groups = grouped(*a, *b)
    assert differences.between(groups) == [
        ("method.dim", ["512", "64"]),
        ("environment.torch", ["2.13.0 (seeds 0, 2), 2.12.0 (seed 1)", "2.14.0"]),
        ("images.splits.train.images", ["10000", "9000"]),
    ]
    warnings = said(groups)
    assert "differ in 3 settings" in warnings
    assert "they differ in environment.torch, images.splits.train.images." in warnings
    assert "The runs of a differ in more than their seed" in warnings
    assert "The runs of b differ" not in warnings


def test_settings_of_the_evaluation_that_differ_are_named(seeds):
    a, b = seeds("a"), seeds("b", method__dim=64)

    def other(rows):
        for row in rows:
            if row["protocol"] == "linear":
                row["protocol_seed"] = 5
            if row["protocol"] == "few-labels":
                row["settings"] = {**row["settings"], "draws": 3}
        rows[:] = [row for row in rows if row["protocol"] != "knn"]

    for run in b:
        edit(run, "results", other)
    found = dict(differences.between(grouped(*a, *b)))
    assert list(found) == [
        *("method.dim", "evaluation.protocols", "evaluation.linear.seed"),
        "evaluation.few-labels.draws",
    ]
    assert found["evaluation.linear.seed"] == ["0", "5"]
    assert found["evaluation.few-labels.draws"] == ["20", "3"]
    assert "knn" in found["evaluation.protocols"][0]
    assert "knn" not in found["evaluation.protocols"][1]


@pytest.mark.parametrize(
    ("protocol", "label"),
    [("linear", "Linear probe, %"), ("auroc-error", "Uncertainty finds errors, AUROC")],
)
def test_versions_of_a_protocol_are_named_and_never_averaged(seeds, protocol, label):
    runs = seeds("a")

    def raised(rows):
        for row in rows:
            row["version"] += row["protocol"] == protocol

    before = [row.label for row in comparison.parts(grouped(*runs))[0].tables[0].rows]
    assert label in before
    edit(runs[1], "results", raised)
    groups = grouped(*runs)
    assert (f"evaluation.{protocol}.version", ["1", "2", "1"]) in differences.within(groups[0])
    labels = [row.label for row in comparison.parts(groups)[0].tables[0].rows]
    assert label not in labels
    assert "Nearest neighbours, %" in labels
    assert f"The protocol '{protocol}' has values of versions 1, 2" in said(groups)


def test_copies_of_one_seed_count_once_and_are_said(fake_run, tmp_path):
    runs = [fake_run.write(tmp_path / name, seed=0) for name in "xyz"]
    (group,) = grouped(*runs)
    assert [run.name for run in group.runs] == ["x"]
    assert [run.name for run in group.copies] == ["y", "z"]
    header, parts = comparison.header([group]), comparison.parts([group])
    assert header.headline == "3 runs of one configuration, seed 0"
    sentences = [w for w in header.warnings if "copies of one seed" in w]
    assert len(sentences) == 1
    assert "y (seed 0), z (seed 0); 1 seed counted" in sentences[0]
    assert len(parts[0].tables[0].rows) > 5
    assert {cell.interval for row in parts[0].tables[0].rows for cell in row.cells} == {""}


def test_copies_do_not_enter_means_nor_paired_differences(seeds, fake_run, tmp_path):
    a, b = seeds("a"), seeds("b", method__dim=64)
    copy = fake_run.write(tmp_path / "copy", seed=2, shift=0.5)
    groups = grouped(*a, copy, *b)
    assert [len(g.runs) for g in groups] == [3, 3]
    values, paired = (part.tables[0] for part in comparison.parts(groups)[:2])
    assert (values.rows[0].cells[0].value, values.columns[0].label) == ("87.1", "a (3 seeds)")
    assert paired.rows[0].cells[0].value == "+0.0"


def test_of_two_copies_the_evaluated_one_counts(fake_run, tmp_path):
    runs = [fake_run.write(tmp_path / name, seed=0) for name in "xy"]
    (runs[0] / "results.json").unlink()
    (group,) = grouped(*runs)
    assert [run.name for run in group.runs] == ["y"]
    assert [run.name for run in group.copies] == ["x"]
