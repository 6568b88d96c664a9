import json
import re
from html.parser import HTMLParser

import pytest

from cognates import report
from cognates.errors import ConfigError, StorageError
from cognates.report import blocks, collect, comparison, differences, readings, run, statements
from cognates.training import record

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/a.png>&amp;"


class Elements(HTMLParser):
    """Collects the elements of a page with their attributes, and the open ones at the end."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def page(fake_run, folder, **options):
    return report.write([fake_run.write(folder, **options)]).read_text(encoding="utf8")


def test_a_page_states_the_finding_and_every_baseline(fake_run, tmp_path):
    text = page(fake_run, tmp_path / "demo")
    assert "names 86.1\N{NO-BREAK SPACE}% of the test images" in text
    for part in ("What it learnt", "When to trust it", "Least certain", "How training went"):
        assert part in text, part
    assert text.count("<svg") == 1 + 1 + 2 + 4
    assert text.count("data:image/png;base64,") == 48
    assert 'class="small"' in text
    assert "knn-distance" in text
    assert "max-softmax *" in text


def test_a_page_needs_no_network_and_no_script(fake_run, tmp_path):
    elements = Elements(page(fake_run, tmp_path / "demo"))
    assert len(elements.found) > 300
    assert elements.open == []
    for tag, attributes in elements.found:
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
                assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:60])
            assert not name.startswith("on")
    style = re.search(r"<style>(.*?)</style>", page(fake_run, tmp_path / "b"), re.DOTALL)
    assert style is not None
    assert "url(" not in style.group(1)
    assert "@import" not in style.group(1)


def test_hostile_names_and_labels_are_escaped(fake_run, tmp_path):
    text = page(fake_run, tmp_path / "demo", names=HOSTILE, data__source=HOSTILE)
    assert "alert(" in text
    assert "<script" not in text
    assert "<img src=http" not in text
    elements = Elements(text)
    images = [attributes["src"] for tag, attributes in elements.found if tag == "img"]
    assert len(images) == 48
    assert all(src.startswith("data:image/png") for src in images)


def test_a_run_folder_with_a_hostile_name_is_escaped(fake_run, tmp_path):
    text = page(fake_run, tmp_path / "<b onload=x>&")
    assert "<b onload" not in text


def test_without_labels_the_page_says_so_and_shows_what_needs_none(fake_run, tmp_path):
    text = page(fake_run, tmp_path / "photos", labels=False, size=96, channels=3)
    assert "The images have no labels" in text
    assert "View retrieval" in text
    assert "93.0" in text
    assert "What it learnt" not in text
    assert 'class="small"' not in text


def test_sensitivity_stands_beside_the_scores_that_any_method_has(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "photos", labels=False)
    found_run = collect.read(folder)
    part = run.without_labels(found_run)
    table = part.tables[1]
    names = ["concentration", "norm", "knn-distance", "view-disagreement"]
    assert [column.label for column in table.columns] == names
    assert len(table.rows) == 4
    assert [cell.value for cell in table.rows[0].cells] == ["0.620", "0.310", "0.550", "0.500"]
    assert [cell.value for cell in table.rows[1].cells] == ["", "+0.310", "+0.070", "+0.120"]
    assert [cell.tone for cell in table.rows[3].cells] == ["", "up", "down", ""]
    rows = json.loads((folder / "results.json").read_text())
    rows = [row for row in rows if "/" not in row["metric"]]
    (folder / "results.json").write_text(json.dumps(rows))
    assert len(run.without_labels(collect.read(folder)).tables) == 1


def test_a_run_that_was_not_evaluated_still_has_a_page(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "fresh")
    for name in ("results.json", "gallery.npz", "data.json", "unreadable.txt", "environment.json"):
        (folder / name).unlink()
    text = report.write([folder]).read_text(encoding="utf8")
    assert "evaluate the run" in text
    assert "How training went" in text


def test_seeds_are_grouped_and_every_other_difference_is_named(fake_run, tmp_path):
    runs = [fake_run.write(tmp_path / f"a/seed{s}", seed=s, shift=0.01 * s) for s in range(3)]
    runs += [
        fake_run.write(tmp_path / f"b/seed{s}", seed=s, shift=0.02 + 0.01 * s, method__dim=64)
        for s in range(3)
    ]
    groups = collect.group([collect.read(run) for run in runs])
    assert [(g.name, len(g.runs)) for g in groups] == [("a", 3), ("b", 3)]
    assert differences.between(groups) == [("method.dim", ["512", "64"])]
    text = report.write(runs, tmp_path / "all.html").read_text(encoding="utf8")
    assert "6 runs in 2 configurations" in text
    assert "b − a (3 seeds shared)" in text
    assert "+2.0" in text  # every seed of b is 2 points above the same seed of a
    assert "method.dim" in text


def test_the_interval_over_seeds_is_students(fake_run, tmp_path):
    runs = [fake_run.write(tmp_path / f"a/seed{s}", seed=s, shift=0.01 * s) for s in range(3)]
    groups = collect.group([collect.read(run) for run in runs])
    table = comparison.parts(groups)[0].tables[0]
    cell = table.rows[0].cells[0]
    # Values .861, .871, .881: mean .871, half-width t(.975, 2) .01 / sqrt(3) = 4.3027 * .0057735.
    assert (cell.value, cell.interval) == ("87.1", "84.6 to 89.6")


def test_two_seeds_give_no_interval(fake_run, tmp_path):
    runs = [fake_run.write(tmp_path / f"a/seed{s}", seed=s) for s in range(2)]
    groups = collect.group([collect.read(run) for run in runs])
    assert comparison.parts(groups)[0].tables[0].rows[0].cells[0].interval == ""
    assert any("Fewer than three seeds" in w for w in comparison.header(groups).warnings)


def test_an_interval_across_zero_has_no_tone(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "weak")
    rows = json.loads((folder / "results.json").read_text())
    for row in rows:
        if row["metric"] == "accuracy-minus-pixels" and row["protocol"] == "linear":
            row |= {"value": 0.004, "low": -0.006, "high": 0.014}
    (folder / "results.json").write_text(json.dumps(rows))
    record = collect.read(folder)
    said = statements.sentences(record)[0]
    assert "\N{MINUS SIGN}0.6 to +1.4" in said
    assert "not every gain" in said


def test_a_score_that_loses_to_a_baseline_is_reported_as_such(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "worse")
    rows = json.loads((folder / "results.json").read_text())
    for row in rows:
        if row["metric"] == "linear/default-minus-best":
            row |= {"value": -0.03, "low": -0.05, "high": -0.01}
    (folder / "results.json").write_text(json.dumps(rows))
    assert (
        "worse than the best label-free baseline" in statements.sentences(collect.read(folder))[1]
    )


def test_failed_protocols_are_named_and_give_no_value(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "failed")
    rows = json.loads((folder / "results.json").read_text())
    broken = {**rows[0], "metric": "failed", "value": None, "error": "DataError: no classes"}
    kept = [row for row in rows if row["protocol"] != "linear"]
    (folder / "results.json").write_text(json.dumps([broken, *kept]))
    record = collect.read(folder)
    assert [row.protocol for row in readings.accuracies(record)] == ["knn", "few-labels"]
    assert "1 of" in statements.warnings(record)[0]
    assert "no classes" in report.write([folder]).read_text(encoding="utf8")


def test_intervals_of_rare_attributes_are_counted_as_too_narrow(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "rare")
    assert not any("too narrow" in said for said in statements.warnings(collect.read(folder)))
    rows = json.loads((folder / "results.json").read_text())
    rows[0]["flags"] = rows[3]["flags"] = ["rare-class"]
    (folder / "results.json").write_text(json.dumps(rows))
    said = statements.warnings(collect.read(folder))
    assert any(f"2 of {len(rows)} intervals are too narrow" in line for line in said)


def test_a_collapsed_run_says_so_first(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "collapsed")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    last = {**json.loads(lines[-1]), "spread": 0.03, "effective_rank": 1.1}
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]))
    assert "has collapsed" in report.write([folder]).read_text(encoding="utf8")


def test_a_metrics_line_cut_by_a_kill_is_left_out(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "killed")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')
    assert len(collect.read(folder).metrics) == 60


def test_damaged_files_and_missing_runs_are_one_sentence(fake_run, tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        report.write([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="at least one run"):
        report.write([])
    folder = fake_run.write(tmp_path / "a")
    with pytest.raises(ConfigError, match="--out"):
        report.write([folder, folder])
    with pytest.raises(ConfigError, match="got the folder"):
        report.write([folder], tmp_path)
    (folder / "gallery.npz").write_bytes(b"half")
    with pytest.raises(StorageError, match="gallery"):
        report.write([folder])
    (folder / "results.json").write_text("[{")
    with pytest.raises(StorageError, match="results"):
        report.write([folder])


def test_the_same_run_gives_the_same_page(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "demo")
    first = report.write([folder]).read_bytes()
    assert report.write([folder], tmp_path / "again.html").read_bytes() == first


def test_labels_that_no_protocol_used_are_not_called_missing(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "run", labels=False)
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps({**data, "classes": 10}))
    text = report.write([folder]).read_text(encoding="utf8")
    assert "no labels" not in text
    assert text.count("No protocol that needs labels gave a value") == 2


@pytest.mark.parametrize("name", ["config", "environment", "data"])
@pytest.mark.parametrize("content", ["[1]", '{"a": '])
def test_a_damaged_json_file_is_one_sentence_with_its_name(fake_run, tmp_path, name, content):
    folder = fake_run.write(tmp_path / "run")
    (folder / f"{name}.json").write_text(content)
    with pytest.raises(StorageError, match=rf"{name}\.json"):
        report.write([folder])


def test_a_metrics_line_that_is_no_found_runis_named(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n3\n')
    with pytest.raises(StorageError, match="line 2"):
        report.write([folder])


def test_a_cut_gallery_is_one_sentence(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "run")
    whole = (folder / "gallery.npz").read_bytes()
    (folder / "gallery.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="gallery"):
        report.write([folder])


def test_the_report_writes_a_time_as_the_log_does():
    assert run.duration is statements.duration is record.duration
    assert not hasattr(blocks, "duration")
