"""Sweeps beyond one machine: other plugins' engines behind the local pool's checks.

    hydra/launcher=slurm      hydra-submitit-launcher, an array job
    hydra/launcher=ray        hydra-ray-launcher, here or on a cluster

Before the engine gets anything, the whole grid is composed and checked, equal configurations are
merged and finished runs dropped, as on one machine; jobs get the configurations that were checked.
What a job is says `hydra.launcher.job`, a subclass of `hydra_plugins.local_pool.Job`. What makes
one that was cut off go on is the project's own record; the engines know nothing of it.

Nothing in this package knows the project it lies in.
"""
