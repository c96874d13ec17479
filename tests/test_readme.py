"""README and docs: every block can be pasted, every link leads somewhere, every room is named."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from resnet_cifar import __version__
from resnet_cifar.__main__ import COMMANDS
from resnet_cifar.config.compose import compose

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md", *DOCS]
# Appended to every training a page asks for: the same command, small.
SMALL = (
    "data=synthetic data.train_size=64 data.val_size=32 data.test_size=32 model.width=2 "
    "trainer.epochs=2 trainer.batch_size=16 trainer.device=cpu"
)
SWEEP = "hydra.launcher.jobs_per_device=2"
DEMO = "python train.py experiment=quickstart"  # the Makefile's


def blocks(page: Path) -> list[str]:
    """The blocks of a page that are for a shell, in order. Those marked `console` need more."""
    return re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def smaller(script: str, quick: bool = False) -> str:
    """`script` with small runs, on synthetic data, and nothing that waits for a person.

    Where it has to be `quick`, grids of learning rates have one.
    """
    lines = []
    for line in script.splitlines():
        command, comment, rest = line.partition("    #")
        if command.startswith("python train.py") and not re.search(r"--(help|cfg)", command):
            command += f" {SMALL}"
            if "experiment=" in command or " -m " in command:
                command += f" {SWEEP}"
            if "experiment=study" in command:
                command += " cell=lr_0.01,detached_bn"
            if re.search("experiment=(study|lr_x_wd|quickstart)", command):
                command += " seed=0"
            if "experiment=batch_size" in command:
                # Later blocks name the one run of batches of 32: this one, or the whole demo's.
                other = 32 if quick else 64
                command = command.replace("batch_size=16", f"batch_size=16,{other}") + " seed=0,1"
            if "experiment=lr_x_wd" in command:
                command += " optimizer.lr=0.01,0.1 regularization.weight_decay=1e-2"
            if quick and re.search("quickstart| -m ", command):
                command += " optimizer.lr=0.01"
        if command.startswith("tensorboard ") and quick:
            command = "true"
        elif command.startswith("tensorboard "):
            command = f"timeout 20 {command} --port 0 || test $? = 124"
        lines.append(command + comment + rest)
    return "\n".join(lines)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What somebody gets who clones this."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    fresh = tmp_path / "resnet-cifar"
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, fresh / name)
    return fresh


def paste(script: str, folder: Path, timeout: float) -> str:
    """Run `script` as a person's shell would, but stop at the first failure. Its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def installed(checkout: Path) -> None:
    """A .venv that stands for an installed one: this Python under its name."""
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("python", ""), ("resnet-cifar", "-m resnet_cifar ")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (programs / name).chmod(0o755)
    (programs / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')


def test_the_readme_s_blocks_can_be_pasted(checkout: Path) -> None:
    """In order, in one shell; installing is `make soak`'s part, and TensorBoard's server."""
    installed(checkout)
    script = "\n".join(blocks(README))
    assert script.startswith("make demo\n")
    script = smaller(script.replace("make demo\n", f"{DEMO}\n", 1), quick=True)
    out = paste(f"PATH=$PWD/.venv/bin:$PATH\n{script}", checkout, timeout=600)
    for made in ("report/report.html", "conf/experiment/batch_size.yaml", "outputs", "demo"):
        assert (checkout / made).exists()
    answer = "batch size 32 − 16"  # the own question's
    for said in ("1 run: 1 done", "accuracy per class", "optimizer.lr", answer):
        assert said in out


@pytest.mark.soak
def test_everything_can_be_pasted_where_nothing_is_installed(checkout: Path) -> None:
    """The installation and the demo as they are, then every block of README and docs."""
    python = getattr(sys, "_base_executable", sys.executable)
    script = "\n".join(block for page in (README, *DOCS) for block in blocks(page))
    out = paste(f"export PYTHON={python}\n{smaller(script)}", checkout, timeout=3600)
    ranked = re.findall(r"^  [123]  (\S+) +\d+\.\d\d ± \d+\.\d\d  n = 3$", out, re.M)
    assert ranked[:3] == ["lr=0.01", "lr=0.001", "lr=0.0001"]  # of the demo, which is whole
    assert "ahead of lr=0.001: more than chance between seeds, as the best of 3" in " ".join(
        out.split()
    )
    assert (checkout / "report" / "report.html").exists()


def commands(page: Path) -> list[str]:
    """Every command line of a page: in blocks, in tables, between the words."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```(?!bash)\w*\n.*?^```$|\$\(.*?\)", "", text, flags=re.M | re.S)
    return re.findall(r"(?:python (?:train\.py|-m resnet_cifar)|resnet-cifar )[^`\n|#]*", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_and_configurations_compose(page: Path) -> None:
    """Of all commands, those too that no block pastes."""
    for command in commands(page):
        words = shlex.split(command.rstrip(" )\\"))
        if words[0] == "resnet-cifar":
            assert words[1] in COMMANDS, command
        elif words[1] == "-m":
            name = words[2].partition(".")[2]
            module = importlib.util.find_spec(words[2])  # a command, or a part of one's package
            assert not name or (module and name.partition(".")[0] in COMMANDS), command
        elif "experiment=batch_size" not in words:  # the README makes that one
            overrides = [
                word.partition(",")[0]
                for word in words[2:]
                if "=" in word and not word.startswith(("hydra.", "hydra/", "'hydra"))
            ]
            assert compose(overrides).trainer.epochs >= 1, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", text):
        there = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", there, re.M)  # as GitHub makes their addresses:
        assert anchor in [
            re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings
        ]


def test_the_readme_is_a_page_and_names_every_room() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for page in DOCS:
        assert f"docs/{page.name}" in text
    for room in (ROOT / "resnet_cifar").iterdir():
        if room.is_dir() and (room / "__init__.py").exists():
            assert f"{room.name}/" in text
    for room in ("train.py", "conf/", "hydra_plugins/", "experiments/", "docs/", "tests/"):
        assert room in text


def test_the_version_is_said_once() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert '\nversion = "' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
