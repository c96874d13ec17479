"""`python -m resnet_cifar.runs` is `python -m resnet_cifar runs`."""

import sys

from resnet_cifar.runs.command import main

if __name__ == "__main__":
    sys.exit(main())
