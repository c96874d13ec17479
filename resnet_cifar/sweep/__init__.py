"""A sweep's runs as the launcher sees them: the job, the plan before, the answer after."""

from resnet_cifar.sweep.job import RunJob as RunJob
