"""`python -m resnet_cifar.plan …` is `resnet-cifar train --plan …`."""

import sys

from resnet_cifar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
