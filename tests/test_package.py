"""Outside its checkout: the wheel, in a folder of its own, used from an empty one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from packaging.requirements import Requirement

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
    assert out[-1] == "1 run, 0 of them damaged"
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
    assert "99×70, 29 % cut off" in out


def test_two_clones_in_one_environment(tmp_path: Path) -> None:
    """The script runs the installed one, and says so where that is not the one it is called in."""
    (tmp_path / "clone" / "resnet_cifar").mkdir(parents=True)
    (tmp_path / "clone" / "resnet_cifar" / "__main__.py").touch()
    (tmp_path / "link").symlink_to(ROOT)
    script = f"""
        script() {{ {sys.executable} -P -c 'import sys; from resnet_cifar.__main__ import main
sys.exit(main())' "$@"; }}
        for folder in clone . link; do (cd $folder && script --version 2>&1); done
    """
    said = in_a_shell(script, tmp_path, PYTHONPATH=str(ROOT)).splitlines()
    note = f"note: this is the program of {ROOT}; python -m resnet_cifar runs that of "
    assert said[0] == f"{note}{tmp_path / 'clone'}"
    assert len(said) == 4
    assert len(set(said[1:])) == 1


def checked_out(folder: Path, *settings: str) -> None:
    """What git would check out here with these settings."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git repository")
    with_settings = [word for setting in settings for word in ("-c", setting)]
    git = ["git", "-C", str(ROOT), *with_settings]
    subprocess.run([*git, "checkout-index", "--all", f"--prefix={folder}/"], check=True)


def test_a_checkout_of_windows_has_the_same_bytes(tmp_path: Path) -> None:
    """Where git turns line ends into CRLF, a shell reads no script, and checksums don't fit."""
    checked_out(tmp_path / "clone", "core.autocrlf=true", "core.eol=crlf")
    files = [path for path in (tmp_path / "clone").rglob("*") if path.is_file()]
    assert len(files) > 300
    changed = [
        path for path in files if b"\r\n" in (content := path.read_bytes()) and b"\0" not in content
    ]
    assert not changed
    (tmp_path / "make").write_text("#!/bin/sh\necho make $1 in $PWD\n")
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    said = in_a_shell("bash clone/.ci/run", tmp_path, PATH=path)
    assert said == f"make test in {tmp_path / 'clone'}\n"


def test_lower_bounds() -> None:
    """Each dependency has one, and the versions that everything is tested with are not below."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = dict(
        line.split()[0].split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    for requirement in map(Requirement, project["dependencies"]):
        assert ">=" in [each.operator for each in requirement.specifier], requirement
        assert requirement.specifier.contains(tested[requirement.name]), requirement


def test_the_versions_of_python() -> None:
    """The workflow runs those that pyproject.toml allows and README.md says were tested."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={versions[0]}"
    minors = [int(version.partition(".")[2]) for version in versions]
    assert minors == list(range(minors[0], minors[-1] + 1))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    platforms = readme.partition("## Platforms")[2].partition("## ")[0]
    tested, _, untested = platforms.partition("not tested")
    assert f"Python {versions[0]} to {versions[-1]}" in tested
    assert "Python" not in untested.partition(".")[0]


@pytest.mark.soak
@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_another_python(version: str, tmp_path: Path) -> None:
    """`make test` with each interpreter that is here, in a checkout of its own."""
    python = shutil.which(f"python{version}")
    found = subprocess.run([python, "-c", "import venv"], check=False) if python else None
    if found is None or found.returncode:
        pytest.skip(f"no Python {version} here")
    checked_out(tmp_path)
    made = subprocess.run(["make", "test", f"PYTHON={python}"], cwd=tmp_path, check=False)
    assert made.returncode == 0


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
