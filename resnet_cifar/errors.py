"""Errors meant for the person at the keyboard: one line, no traceback."""

from resnet_cifar.text import printable

LONGEST = 300  # characters of a cause


class UserError(Exception):
    """Something the user can put right. The message is one line; `exit_code` ends the process."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:  # in place of IPython's
        return [f"error: {self}"]


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
    """Raise ConfigError, "key=value: must be `allowed`", unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={shorten(str(value), 200)}: must be {allowed}")


def describe(error: BaseException) -> str:
    """Return `error` in one line of LONGEST characters at most, with its kind.

    An error made for people (it has an exit code) goes without the kind, and may be longer: it may
    hold another's description beside what to do.
    """
    kind = type(error)
    try:
        text = str(error)
    except Exception:
        text = "its message can't be shown"
    if kind.__module__.startswith(("torch._dynamo", "torch._inductor")):
        text += " (trainer.compile=false does without the compiler)"
    if text and hasattr(error, "exit_code"):
        return shorten(text, 4 * LONGEST)
    return shorten(f"{kind.__name__}: {text}" if text else kind.__name__)


def shorten(text: str, longest: int = LONGEST) -> str:
    """Fold `text` into one printable line of `longest` characters at most, without its middle."""
    line = printable(text[: 2 * longest] + text[2 * longest :][-2 * longest :])
    if len(line) <= longest:
        return line
    return f"{line[: longest // 2]} … {line[3 - longest // 2 :]}"  # the end often says what to do
