"""The edge of the program: exceptions become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from resnet_cifar.errors import ConfigError, Interrupted, UserError, describe
from resnet_cifar.interrupt import stop_with_parent


def guard(main: Callable[[], Any]) -> int:
    """Run `main` and return the process's exit code.

    0 done, 1 failed, 2 refused before anything was done, 128 + n ended by signal n.
    With HYDRA_FULL_ERROR=1 in the environment, errors keep their traceback.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from resnet_cifar.config import one_line

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    stop_with_parent()
    try:
        main()
        return 0
    except Interrupted as interrupted:
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if wants_traceback:
            raise
        if isinstance(error, (HydraException, OmegaConfBaseException)):
            error = ConfigError(one_line(error))
        print(f"error: {describe(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1
