"""The repository keeps its own promises: locked versions, layers, commands, one version number."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import cognates

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
PACKAGE = ROOT / "src" / "cognates"


def text(name):
    return (ROOT / name).read_text(encoding="utf8")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins():
    lines = [line for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=str.lower)
    found = {canonical(name): version for name, version in (line.split("==") for line in lines)}
    assert len(found) == len(lines) > 80
    return found


def installed_by_make():
    """Return the requirements of the library, its tools, its benchmarks and its build."""
    extras = PROJECT["project"]["optional-dependencies"]
    groups = [PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"]]
    groups += [extras[name] for name in ("dev", "hub", "timm", "bench")]
    found = [Requirement(line) for group in groups for line in group]
    return [one for one in found if one.name != "cognates"]


def test_every_requirement_is_locked_to_one_version_within_its_range(pins):
    requirements = installed_by_make()
    assert len(requirements) > 20
    for one in requirements:
        assert one.specifier, f"{one.name} has no range"
        assert pins[canonical(one.name)] in one.specifier


def test_the_lock_has_no_local_version_and_torch_is_the_agreed_one(pins):
    assert pins["torch"] == "2.13.0"
    assert not [version for version in pins.values() if "+" in version]


def test_torch_may_be_two_minor_versions_older_than_the_locked_one(pins):
    (torch,) = (one for one in installed_by_make() if one.name == "torch")
    locked = Version(pins["torch"])
    assert f"{locked.major}.{locked.minor - 2}.0" in torch.specifier
    assert f"{locked.major}.{locked.minor - 3}.0" not in torch.specifier


def test_the_compromised_releases_of_lightning_are_excluded():
    (fabric,) = (one for one in installed_by_make() if one.name == "lightning-fabric")
    assert not {"2.6.2", "2.6.3"} & set(fabric.specifier.filter(["2.6.2", "2.6.3", "2.6.4"]))


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert cognates.__version__ == version
    assert re.search(r"^version: (.+)$", text("CITATION.cff"), re.M).group(1) == version
    released = re.findall(r"^## \[(\d[^\]]*)\]", text("CHANGELOG.md"), re.M)
    assert released[0] == version


def contracts(kind):
    return [one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == kind]


def layers():
    """Return the rooms of each layer, from the top down."""
    (contract,) = contracts("layers")
    return [
        [room.strip().strip("()") for room in re.split("[|:]", line)] for line in contract["layers"]
    ]


def rooms():
    """Return the modules and packages right below `cognates`."""
    packages = {folder.name for folder in PACKAGE.iterdir() if any(folder.glob("*.py"))}
    modules = {file.stem for file in PACKAGE.glob("*.py")}
    return (packages | modules) - {"__init__", "__main__"}


def test_every_room_has_a_layer():
    listed = [room for layer in layers() for room in layer]
    assert len(rooms()) > 15
    assert len(listed) == len(set(listed))
    assert rooms() <= set(listed)
    assert contracts("layers")[0]["exhaustive"]


def test_the_mathematics_is_kept_from_processes_engines_and_model_zoos():
    (contract,) = (
        one for one in contracts("forbidden") if "torchvision" in one["forbidden_modules"]
    )
    assert {"cognates.objectives", "cognates.distributions"} <= set(contract["source_modules"])
    assert ("cognates.kernels" in contract["source_modules"]) == ("kernels" in rooms())
    # Not only direct imports, and torch.distributed besides, which only ruff can see.
    assert not contract.get("allow_indirect_imports", False)
    assert set(contract["forbidden_modules"]) == {
        "cognates.distributed",
        "lightning_fabric",
        "torchvision",
        "timm",
    }
    tidy = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]
    assert "torch.distributed" in tidy["banned-api"]
    excused = {
        place
        for place, rules in PROJECT["tool"]["ruff"]["lint"]["per-file-ignores"].items()
        if "TID251" in rules
    }
    assert excused == {"tests/**", "src/cognates/distributed.py", "src/cognates/training/**"}


@pytest.mark.parametrize(
    ("package", "home"),
    [("lightning_fabric", "training"), ("tyro", "cli"), ("timm", "networks")],
)
def test_an_engine_a_command_line_and_a_model_zoo_have_one_home_each(package, home):
    (contract,) = (one for one in contracts("forbidden") if one["forbidden_modules"] == [package])
    kept_out = {module.removeprefix("cognates.") for module in contract["source_modules"]}
    assert kept_out == rooms() - {home}


def test_undefined_names_and_unused_variables_are_never_ignored():
    lint = PROJECT["tool"]["ruff"]["lint"]
    ignored = [*lint["ignore"], *(r for rules in lint["per-file-ignores"].values() for r in rules)]
    assert "F" in lint["select"]
    assert not [rule for rule in ignored if rule in ("F", "F8", "F82", "F821", "F84", "F841")]


def commands(target):
    """Return the programs that a target of the Makefile runs."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text("Makefile"), re.M).group(1)
    return re.findall(r"\$\(BIN\)/(\S+(?: tools/\S+)?)", recipe)


def test_the_hooks_before_a_commit_run_what_make_check_runs():
    hooks = re.findall(r"entry: \.venv/bin/(\S+(?: tools/\S+)?)", text(".pre-commit-config.yaml"))
    assert len(hooks) == 6
    assert hooks == commands("check")


def test_the_two_commands_of_the_readme_are_targets_and_ci_runs_the_checks():
    readme, ci = text("README.md"), text(".ci/run")
    assert "make demo" in readme
    assert "make test" in readme
    assert commands("demo") == ["cognates"]
    assert commands("test") == ["python"]
    assert "make check" in ci
    assert "make test" in ci


def test_the_documents_link_to_what_exists():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf8"))
    ]
    assert len(documents) >= 4
    assert len(links) > 5
    assert [link for link in links if not (link[0].parent / link[1]).exists()] == []


@pytest.fixture(scope="module")
def check_sizes():
    spec = importlib.util.spec_from_file_location("check_sizes", ROOT / "tools/check_sizes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_size_check_finds_each_kind_of_violation_and_nothing_else(
    check_sizes, tmp_path, capsys
):
    folder = tmp_path / "src"
    folder.mkdir()
    docstring = '    """' + "\n".join(["Doc."] * 30) + '"""\n'
    (folder / "good.py").write_text("def f():\n" + docstring + "    x = 1\n" * 59)
    assert check_sizes.main(tmp_path) == 0
    (folder / "long.py").write_text("x = 1\n" * 401)
    (folder / "function.py").write_text("async def f():\n" + "    x = 1\n" * 60)
    (folder / "utils.py").write_text("")
    assert check_sizes.main(tmp_path) == 1
    said = capsys.readouterr().out
    assert "long.py: 401 lines" in said
    assert "function.py:1: f has 61 lines" in said
    assert "utils.py: a name that says nothing" in said
    assert said.endswith("4 files, 3 too long or badly named\n")


def test_the_size_check_refuses_to_look_at_nothing(check_sizes, tmp_path):
    assert check_sizes.main(tmp_path) == 1
