from __future__ import annotations

from cognates.evaluation.earlier import staying
from cognates.evaluation.records import read_results
from cognates.evaluation.suite import evaluate
from cognates.types import Result


def record(protocol: str, metric: str = "accuracy", **kind: object) -> Result:
    base = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "features": "some"}
    return Result(**{**base, "protocol": protocol, "metric": metric, **kind})


def ranked(protocol: str, default: str, **kind: object) -> list[Result]:
    """Return what a protocol says of two scores."""
    names = ("norm", "knn-distance")
    values = [
        record(
            protocol,
            f"linear/{name}",
            settings={"score": name},
            flags=("default",) if name == default else (),
            **kind,
        )
        for name in names
    ]
    gap = record(protocol, "linear/default-minus-best", settings={"score": default}, **kind)
    return [*values, gap]


def stay(earlier, results, *, run, now=("some",), known=("some",)):
    lines: list[str] = []
    found = staying(earlier, results, run={*run}, now={*now}, known={*known}, say=lines.append)
    return found, lines


def test_records_of_another_default_score_leave_with_their_protocol_and_it_is_said() -> None:
    plain = [record("knn"), record("linear", "nll"), record("sensitivity", "crop-per-image/norm")]
    earlier = [*ranked("r-auroc", "norm"), *plain, *ranked("aurc", "norm")]
    found, lines = stay(earlier, ranked("crop", "knn-distance"), run=["crop"])
    assert found == plain
    why = "where the default score was 'norm' and is 'knn-distance' now"
    assert lines == [f"6 records left results.json, {why}: r-auroc, aurc."]


def test_a_difference_alone_tells_the_default_score() -> None:
    earlier = [record("crop", "bigger/default-minus-norm", settings={"score": "consensus"})]
    found, lines = stay(earlier, ranked("aurc", "norm"), run=["aurc"])
    assert found == []
    why = "where the default score was 'consensus' and is 'norm' now"
    assert lines == [f"1 record left results.json, {why}: crop."]


def test_records_stay_where_the_default_score_is_the_same_or_is_not_asked_for() -> None:
    earlier = [*ranked("r-auroc", "norm"), record("knn")]
    for results in (ranked("crop", "norm"), [record("spread")]):
        run = [results[0].protocol]
        assert stay(earlier, results, run=run) == (earlier, [])
    again = ranked("r-auroc", "knn-distance")
    assert stay(earlier, again, run=["r-auroc"]) == ([record("knn")], [])


def test_records_of_other_images_that_give_way_or_leave_are_said() -> None:
    earlier = [
        *ranked("r-auroc", "norm", features="all"),
        record("crop", features="all"),
        record("knn", features="all"),
        record("spread", features="others"),
    ]
    results = [*ranked("r-auroc", "norm"), record("crop")]
    found, lines = stay(earlier, results, run=["r-auroc", "crop"], known=["all"])
    assert found == [record("knn", features="all")]
    assert lines == [
        "4 records of other images, weights or versions gave way to those of r-auroc, crop.",
        "1 record of other images, weights or versions left results.json: spread.",
    ]
    # the same images again: there is nothing to say
    assert stay(results, results, run=["r-auroc", "crop"]) == ([], [])


def test_the_suite_keeps_the_records_of_one_default_score_and_says_what_it_replaces(
    method, images, spec, tmp_path
) -> None:
    kind = {"views": [spec], "size": 16, "mean": None, "std": None, "grid": 2, "out": tmp_path}

    def run(only, score, **more) -> tuple[list[Result], list[str]]:
        lines: list[str] = []
        evaluate(
            method, *images, only=only, default_score=score, progress=lines.append, **more, **kind
        )
        return read_results(tmp_path / "results.json"), lines

    run(["r-auroc", "knn"], "norm")
    found, lines = run(["aurc"], "consensus")
    assert {r.protocol for r in found} == {"knn", "aurc"}
    own = {r.settings["score"] for r in found if "default" in r.flags}
    assert own == {"consensus"}
    assert sum("where the default score was 'norm'" in line for line in lines) == 1
    count = sum(r.protocol == "knn" for r in found)
    found, lines = run(["knn"], "norm", images=20)
    assert {r.protocol: r.n for r in found} == {"knn": 20, "aurc": 40}
    said = f"{count} records of other images, weights or versions gave way to those of knn."
    assert [line for line in lines if "records" in line] == [said]
