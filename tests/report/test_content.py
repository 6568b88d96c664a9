from cognates import report
from cognates.evaluation import read_results, write_results
from cognates.report import collect, comparison, content, readings
from cognates.types import Result


def evaluated(fake_run, folder, *, shift=0.0, **options):
    """A run with two protocols about content and style beside what it has already."""
    fake_run.write(folder, **options)
    path = folder / "results.json"
    found = list(read_results(path))

    def add(protocol, metric, value, subject="trained"):
        kind = {"low": value - 0.05, "high": value + 0.05, "n": 2000, "subject": subject}
        found.append(Result(protocol=protocol, metric=metric, value=value, **kind))

    for subject, value in (("trained", 0.625 + shift), ("untrained", 0.512), ("pixels", -0.125)):
        add("augmentation", "training/x/r2/ridge", value, subject)
        add("mlp", "accuracy", value, subject)
        add("celeba", "macro/balanced-accuracy/linear", value, subject)
        add("celeba", "Bald/balanced-accuracy/linear", value, subject)
    add("augmentation", "training/x/r2/ridge-minus-untrained", 0.113)
    add("mlp", "accuracy-minus-linear", 0.021)
    write_results(path, found)
    return folder


def test_content_and_style_have_a_table_per_protocol_with_every_baseline(fake_run, tmp_path):
    folder = evaluated(fake_run, tmp_path / "a")
    part = content.part(collect.read(folder))
    assert part is not None
    assert {table.corner: len(table.rows) for table in part.tables} == {
        "augmentation": 1, "mlp": 2, "celeba": 1
    }  # fmt: skip
    by_name = {table.corner: table for table in part.tables}
    row = by_name["augmentation"].rows[0]
    assert row.label == "training/x/r2/ridge"
    assert [cell.value for cell in row.cells] == ["0.625", "0.512", "−0.125", "+0.113", "–"]
    assert row.cells[3].tone == "up"
    assert [r.label for r in by_name["mlp"].rows] == ["accuracy, %", "accuracy-minus-linear, %"]
    assert by_name["mlp"].rows[0].cells[0].value == "62.5"
    text = report.write([folder]).read_text(encoding="utf8")
    assert "Content and style" in text
    assert "Bald/balanced-accuracy/linear" in text  # among all results


def test_runs_without_these_protocols_have_no_such_part(fake_run, tmp_path):
    assert content.part(collect.read(fake_run.write(tmp_path / "a"))) is None


def test_runs_are_compared_by_what_was_measured_of_content_and_style(fake_run, tmp_path):
    folders = [
        evaluated(fake_run, tmp_path / f"{name}{seed}", shift=shift, seed=seed, method__dim=dim)
        for name, shift, dim in (("a", 0.0, 512), ("b", 0.125, 256))
        for seed in (0, 1)
    ]
    groups = collect.group([collect.read(folder) for folder in folders])
    assert "augmentation: training/x/r2/ridge" in readings.compared(groups[0].runs[0])
    tables = {part.title: part.tables[0] for part in comparison.parts(groups) if part.tables}
    rows = {row.label: row for row in tables["Side by side"].rows}
    assert [c.value for c in rows["augmentation: training/x/r2/ridge"].cells] == ["0.625", "0.750"]
    assert [c.value for c in rows["mlp: accuracy, %"].cells] == ["62.5", "75.0"]
    rows = {row.label: row for row in tables["Paired by seed"].rows}
    assert rows["mlp: accuracy, %"].cells[0].value == "+12.5"
