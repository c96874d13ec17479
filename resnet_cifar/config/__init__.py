"""Hydra's composed configuration comes in, a typed Config goes out; past here plain Python only.

YAML under conf/ holds every value, the dataclasses registered here hold types and rules; a
dataclass without a YAML value is an error, not a default.
"""

from resnet_cifar.config.compose import compose as compose
