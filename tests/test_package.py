"""Outside its checkout: the wheel, in a folder of its own, used from an empty one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from resnet_cifar import compose, paths
from resnet_cifar.cli import train as training
from resnet_cifar.config.compose import CONF
from resnet_cifar.config.saved import reproduce_command
from resnet_cifar.record import provenance

TINY_RUN = f"{' '.join(TINY)} trainer.epochs=1"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves folders behind where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("conf", "experiments", "resnet_cifar", "hydra_plugins"):
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*PIP, *build], check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(about).decode())
    for folder in ("conf", "experiments"):
        for path in (ROOT / folder).rglob("*.yaml"):
            if "results" not in path.parts:
                assert f"resnet_cifar/{path.relative_to(ROOT)}" in names
    for folder in ("resnet_cifar", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in names
    assert {name.partition("/")[0] for name in names} == {
        "resnet_cifar",
        "hydra_plugins",
        about.partition("/")[0],
    }
    assert "export" in metadata.get_all("Provides-Extra", [])


def in_a_shell(script: str, folder: Path, **environment: str) -> str:
    ended = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def test_a_sweep_and_its_report_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Inside somebody else's repository, whose commit is not this program's."""
    target, work = tmp_path / "installed", tmp_path / "work"
    install = ["install", "--no-deps", "--no-compile", "--target", str(target), str(wheel)]
    subprocess.run([*PIP, *install], check=True)
    work.mkdir()
    path = {"PYTHONPATH": str(target), "PATH": f"{target}/bin:{os.environ['PATH']}"}
    script = f"""
        git init -q {tmp_path} && git -C {tmp_path} -c user.name=a -c user.email=a@b \\
            commit -q --allow-empty -m somebody
        python() {{ {sys.executable} "$@"; }}
        python -c 'import resnet_cifar; print(resnet_cifar.__file__)'
        resnet-cifar train -m {TINY_RUN} optimizer.lr=0.1
        python - outputs/*/seed=0 <<'END'
import sys
from resnet_cifar.__main__ import main
for words in (["report", "--quiet"], ["runs", "command", sys.argv[1]], ["runs", "verify"]):
    assert main(words) == 0
END
        grep '"commit": null' outputs/*/seed=0/run.json >&2
        grep '"resnet-cifar": "0' outputs/*/seed=0/run.json >&2
    """
    out = in_a_shell(script, work, **path).splitlines()
    assert out[0] == f"{target}/resnet_cifar/__init__.py"
    assert any(line.startswith("  resnet-cifar evaluate outputs/") for line in out)
    (printed,) = [line for line in out if line.startswith("resnet-cifar train ")]
    assert "optimizer.lr=0.1" in printed
    assert out[-1] == "1 runs, 0 of them damaged"
    assert (work / "report" / "report.html").exists()
    assert sorted(each.name for each in work.iterdir()) == ["outputs", "report"]


@pytest.mark.soak
def test_the_demo_where_nothing_is_installed(wheel: Path, tmp_path: Path) -> None:
    """With every dependency, in an environment of its own, as in docs/take-away.md."""
    python = getattr(sys, "_base_executable", sys.executable)
    script = f"""
        {python} -m venv env && . env/bin/activate
        pip install --quiet --constraint {ROOT}/constraints.txt '{wheel}[export]'
        mkdir empty && cd empty
        resnet-cifar train experiment=quickstart && resnet-cifar report demo --quiet
        resnet-cifar export demo/lr0.01_*/seed=0 net.onnx net.safetensors net.pt2
        python -c 'from PIL import Image; Image.new("RGB", (99, 70)).save("a.png")'
        resnet-cifar predict demo/lr0.01_* a.png
    """
    environment = {"PYTHONPATH": "", "VIRTUAL_ENV": ""}
    out = in_a_shell(script, tmp_path, **environment)
    assert "report/report.html" in out
    assert "99×70, resized" in out


def test_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout at its top; beside nothing, inside the package."""
    assert paths.resource_directory("conf") == CONF == ROOT / "conf"
    assert paths.checkout() == ROOT
    assert reproduce_command(compose(["seed=3"])) == "python train.py seed=3"
    assert paths.installing("export") == 'pip install -c constraints.txt -e ".[export]"'
    inside = tmp_path / "site-packages" / "resnet_cifar"
    (inside / "conf").mkdir(parents=True)
    (tmp_path / "site-packages" / "conf").mkdir()  # somebody else's
    monkeypatch.setattr(paths, "_PACKAGE", inside)
    assert paths.resource_directory("conf") == inside / "conf"
    assert paths.checkout() is None
    assert reproduce_command(compose(["seed=3"])) == "resnet-cifar train seed=3"
    assert paths.command_name("runs") == "resnet-cifar runs"
    assert paths.installing("export") == 'pip install "resnet-cifar[export]"'
    assert provenance.git_state(paths.checkout()) == {"commit": None, "uncommitted": None}


def test_scripts_that_hydra_can_complete_say_so() -> None:
    """Its completion looks for this text in train.py, whose main is elsewhere."""
    assert "@hydra.main" in (ROOT / "train.py").read_text()
    assert "@hydra.main" in Path(training.__file__).read_text()
