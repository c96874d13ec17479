"""A controlled hyperparameter study of ResNet-18 on CIFAR-10."""

__version__ = "0.1.0"
