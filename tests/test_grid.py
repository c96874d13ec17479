"""This project's grids: each job as Hydra would have composed it."""

import pytest
from conftest import ROOT
from plugins.hydra_toy import Sweep, sweep  # noqa: F401 (a fixture)
from plugins.test_grid import compare

from resnet_cifar.config.compose import register

OURS = {
    "the study": ["scheduler=cosine,step", "optimizer.lr=0.1,0.2", "experiment=detach"],
    "a cell": ["cell=cosine,detached_bn", "output_root='${hydra:runtime.choices.norm}'"],
}


@pytest.mark.parametrize("arguments", OURS.values(), ids=OURS)
def test_jobs_as_hydra_composes_them(sweep: Sweep, arguments: list[str]) -> None:  # noqa: F811
    register()
    compare(*sweep(*arguments, conf=ROOT / "conf"), arguments)
