"""Sweeps beyond one machine: other plugins' engines behind this project's checks.

    hydra/launcher=slurm      hydra-submitit-launcher, an array job      pip install -e ".[slurm]"
    hydra/launcher=ray        hydra-ray-launcher, here or on a cluster   pip install -e ".[ray]"

Before the engine gets anything, the whole grid is composed and checked, equal configurations are
merged and finished runs dropped, as on one machine. What makes a job that was cut off go on is the
run's own record and lock; the engines know nothing of it.
"""
