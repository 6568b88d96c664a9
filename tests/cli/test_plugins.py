"""A method in one file through the command line: where its code comes from and who may run it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cognates
from cognates.cli.main import main
from cognates.errors import ConfigError
from cognates.methods import registry

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from cognates.methods import Method, MethodConfig, register
from cognates.types import Embedding, Loss

print("the plug-in was run")

class Tiny(Method):
    default_score = "view-disagreement"

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, batch):
        a, b = (self.encoder(view) for view in batch.views)
        return Loss({"alignment": (a - b).square().mean()}, a.detach())

    def embed(self, images):
        return Embedding(self.encoder(images), None)

@register
@dataclass(frozen=True, kw_only=True)
class TinyConfig(MethodConfig):
    name: ClassVar[str] = "tiny-for-cli-test"
    paper: ClassVar[str] = "none"

    def build(self, encoder: nn.Module, *, width: int) -> Tiny:
        return Tiny(encoder)
"""


@pytest.fixture(autouse=True)
def forget():
    """Forget the plug-ins before and after, as a new process would."""

    def forget_all():
        for plugin in registry._PLUGINS.values():
            sys.modules.pop(plugin.module.__name__, None)
            for config in plugin.configs:
                registry._REGISTERED.pop(config.name, None)
        registry._PLUGINS.clear()

    forget_all()
    yield forget_all
    forget_all()


@pytest.fixture(scope="module")
def trained(source, small, tmp_path_factory):
    """Return the folder of a run whose plug-in file is gone."""
    folder = tmp_path_factory.mktemp("plugin")
    plugin, out = folder / "tiny_method.py", folder / "run"
    plugin.write_text(PLUGIN)
    options = small[: small.index("--set")]
    arguments = ["train", "--plugin", str(plugin), "--data", source, "--out", str(out)]
    assert main([*arguments, *options]) == 0
    plugin.unlink()
    return out


@pytest.fixture
def received(trained, tmp_path):
    """Return a copy of that run as somebody else would get it."""
    return Path(shutil.copytree(trained, tmp_path / "received"))


def test_a_method_in_one_file_trains_and_the_next_command_names_it(source, small, tmp_path, capsys):
    plugin = tmp_path / "tiny_method.py"
    plugin.write_text(PLUGIN)
    options = [option for option in small[: small.index("--set")] if option != "--quiet"]
    out = tmp_path / "r"
    arguments = ["train", "--plugin", str(plugin), "--data", source, "--out", str(out)]
    assert main([*arguments, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith(f"Next: cognates evaluate {out} --plugin {plugin}, then")
    assert (out / "plugin.py").read_text() == (out / "model" / "plugin.py").read_text() == PLUGIN
    # In this process the method is known, because it was named.
    assert cognates.load(out).default_score == "view-disagreement"
    assert main(["methods", "tiny-for-cli-test", "--plugin", str(plugin)]) == 0


def test_no_command_runs_a_plug_in_that_was_not_named(
    received, source, tmp_path, fails, capsys, forget
):
    out = tmp_path / "out"
    commands = [
        ["evaluate", received],
        ["embed", received, "--data", source, "--out", f"{out}.parquet"],
        ["export", received, "--to", "torchvision", "--out", f"{out}.pth"],
        ["train", "--resume", received],
        ["train", "--config", received, "--out", out],
        ["train", "--config", received / "config.json", "--out", out],
    ]
    forget()
    capsys.readouterr()
    for command in commands:
        said = fails(*command)
        assert f"pass --plugin {received / 'plugin.py'}" in said
        assert "executed only when you name it" in said
    code = f"import cognates; cognates.load({str(received)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "was run" not in done.stdout
    assert "(in Python, plugin=...)" in done.stderr
    assert not registry._PLUGINS
    assert "tiny-for-cli-test" not in registry.names()


def test_the_runs_own_copy_serves_every_command(received, source, tmp_path, forget, fails):
    named = ["--plugin", str(received / "plugin.py"), "--quiet"]
    assert main(["evaluate", str(received), "--only", "knn", *named]) == 0
    forget()
    out = tmp_path / "arrays.parquet"
    assert main(["embed", str(received), "--data", source, "--out", str(out), *named]) == 0
    assert out.is_file()
    forget()
    again = tmp_path / "again"
    assert main(["train", "--config", str(received), "--out", str(again), *named]) == 0
    for name in ("config.json", "plugin.py", "model/weights.safetensors"):
        assert (again / name).read_bytes() == (received / name).read_bytes(), name
    forget()
    page = tmp_path / "report.html"
    assert main(["report", str(again), "--out", str(page)]) == 0
    repeat = f"--config {again / 'config.json'} --plugin {again / 'plugin.py'} --out OUT"
    assert repeat in page.read_text(encoding="utf8")
    exported = fails("export", received, "--to", "torchvision", "--out", "x.pth", *named[:2])
    assert "Expected a ResNet" in exported
    forget()
    assert "has done all its 3 steps" in fails("train", "--resume", received, *named)
    forget()
    assert cognates.load(received, plugin=received / "plugin.py").method is not None
    forget()
    alone = tmp_path / "alone"
    shutil.copytree(received / "model", alone / "model")
    assert cognates.load(alone, plugin=alone / "model" / "plugin.py").method is not None
    forget()
    assert f"--plugin {alone / 'model' / 'plugin.py'} " in fails("evaluate", alone)


def test_other_code_than_the_runs_is_refused_before_it_runs(
    received, tmp_path, fails, capsys, forget
):
    forget()
    edited = tmp_path / "edited.py"
    edited.write_text(PLUGIN + "\nprint('edited code')\n")
    capsys.readouterr()
    for command in (
        ["evaluate", received],
        ["export", received, "--to", "torchvision", "--out", "x.pth"],
    ):
        said = fails(*command, "--plugin", edited)
        assert f"got '{edited}' with other code: pass {received / 'plugin.py'}, or" in said
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match="with other code"):
        cognates.evaluate(received, plugin=edited)
    # Changed code makes another run of the same configuration.
    out = tmp_path / "out"
    arguments = ["train", "--config", str(received), "--out", str(out), "--quiet"]
    assert main([*arguments, "--plugin", str(edited)]) == 0
    assert (out / "plugin.py").read_text() == edited.read_text()
    (received / "plugin.py").write_text("raise SystemExit")
    said = fails("evaluate", received, "--plugin", received / "plugin.py")
    assert f"pass {received / 'model' / 'plugin.py'}" in said


BROKEN = {
    "raises": ("raise ValueError('no')", r"does not import in line \d+: ValueError: no"),
    "is cut off": ("def f(:", r"does not import: SyntaxError: .*line \d+"),
    "holds none": ("", "registers no method: decorate its configuration"),
    "takes a name": (PLUGIN.replace("tiny-for-cli-test", "simsiam"), "got 'simsiam', a method of"),
    "has no name": (PLUGIN.replace('    name: ClassVar[str] = "tiny-for-cli-test"\n', ""), "name"),
    "has no paper": (PLUGIN.replace('    paper: ClassVar[str] = "none"\n', ""), "say its paper"),
    "fails late": (PLUGIN + "\n1 / 0", r"in line \d+: ZeroDivisionError"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plug_in_is_named_with_its_fault_and_leaves_no_method_behind(
    fault, tmp_path, fails
):
    assert len(BROKEN) == 7
    source, expected = BROKEN[fault]
    path = tmp_path / "broken.py"
    path.write_text(source)
    before = registry.get("simsiam"), registry.names()
    said = fails("methods", "--plugin", path)
    assert str(path) in said
    assert re.search(expected, said), said
    assert (registry.get("simsiam"), registry.names()) == before
    assert not [name for name in sys.modules if name.startswith("cognates_plugin_broken")]


def test_the_line_that_is_named_is_the_plug_ins_own(tmp_path, fails):
    path = tmp_path / "broken.py"
    path.write_text("import json\n\njson.loads('{')  # fails far from here\n")
    assert "does not import in line 3: JSONDecodeError" in fails("methods", "--plugin", path)


def test_a_loss_without_terms_is_refused_before_a_folder_exists(source, small, tmp_path, fails):
    plugin, out = tmp_path / "empty.py", tmp_path / "run"
    terms = '{"alignment": (a - b).square().mean()}'
    assert terms in PLUGIN
    plugin.write_text(PLUGIN.replace(terms, "{}"))
    options = small[: small.index("--set")]
    said = fails("train", "--plugin", plugin, "--data", source, "--out", out, *options)
    assert "Expected the loss of 'tiny-for-cli-test' to have terms, got none" in said
    assert not out.exists()
