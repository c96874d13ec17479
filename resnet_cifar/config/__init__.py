"""YAML in, a typed Config out, by Hydra; past this room there is plain Python only."""

from resnet_cifar.config.compose import compose as compose
