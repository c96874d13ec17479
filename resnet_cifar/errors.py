"""Errors meant for the person at the keyboard: one line, no traceback."""


class UserError(Exception):
    """Something the user can put right. The message is one line; `exit_code` ends the process."""

    exit_code = 1


class ConfigError(UserError):
    """A configuration that can't be run: names the key, the value and what is allowed."""

    exit_code = 2


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived and the run has been left in a state that can be resumed.

    Like KeyboardInterrupt no Exception: nothing that deals with failures should take it for one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.exit_code = 128 + signal_number


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise ConfigError naming `key`, `value` and what is `allowed`, unless `condition` holds."""
    if not condition:
        shown, most = str(value), 30 if isinstance(value, int) else 300
        shown = shown if len(shown) <= most else f"{shown[: most - 10]}…{shown[-9:]}"
        raise ConfigError(f"{key}={shown} is not allowed: {allowed}")


def describe(error: BaseException) -> str:
    """Return `error` in one line; its kind too, unless it was made for people (an exit code)."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        text += " (trainer.compile=false does without the compiler)"
    return text if hasattr(error, "exit_code") else f"{type(error).__name__}: {text}"
