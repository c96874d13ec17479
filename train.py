"""Train one configuration, or a sweep with -m. `python train.py --help` shows how.

Hydra completes command lines of scripts that contain the text @hydra.main.
"""

import sys

from resnet_cifar.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
