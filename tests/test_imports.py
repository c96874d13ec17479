"""What a run does not need it does not load: seconds of a start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, TINY

# Image files, the reader of event files, tables and figures, other people's trackers. Not the
# compiler, which torch's optimizers import at their first step, whoever made them.
UNNEEDED = (
    "torchvision",
    "tensorboard.backend.event_processing",
    "tensorflow",
    "pandas",
    "scipy",
    "matplotlib",
    "sklearn",
    "mlflow",
    "wandb",
    "optuna",
)

PROGRAM = """
import json, sys
from resnet_cifar.cli.train import main
sys.argv[1:] = json.loads(sys.argv[1])
code = main()
print("MODULES " + json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def test_a_tiny_run_loads_what_it_needs(tmp_path: Path) -> None:
    arguments = json.dumps([*TINY, "trainer.epochs=1", f"output_root={tmp_path}"])
    command = [sys.executable, "-c", PROGRAM, arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.partition("MODULES ")[2])
    assert "torch" in loaded
    found = [n for n in loaded if any(n == u or n.startswith(f"{u}.") for u in UNNEEDED)]
    assert not found
