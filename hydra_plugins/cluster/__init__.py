"""Sweeps beyond one machine: the engines of other plugins behind the local pool's checks.

    hydra/launcher=slurm      hydra-submitit-launcher, an array job
    hydra/launcher=ray        hydra-ray-launcher, here or on a cluster

A job that was cut off goes on by the project's own record, which the engines know nothing of.
Nothing in this package knows the project it lies in.
"""
