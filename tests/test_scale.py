"""The runs that the measurement of scale makes up are runs to whoever reads them."""

from pathlib import Path

from benchmarks import scale
from resnet_cifar.config.compose import compose
from resnet_cifar.runs.command import main
from resnet_cifar.runs.table import load_runs


def test_made_up_runs_are_finished_and_whole(tmp_path: Path) -> None:
    base = compose([*scale.SETTING, f"output_root={tmp_path}"])
    for rate in scale.RATES[:2]:
        scale.make_run(scale.variant(base, rate, 3))
    assert main(["verify", str(tmp_path)]) == 0
    found = load_runs(tmp_path)
    assert list(found["status"]) == ["completed"] * 2
    assert list(found["seed"]) == [3, 3]
    assert found["accuracy/val"].nunique() == 2
