"""TensorBoard: the curves of a run, its pictures and its row in HPARAMS; an event file a session.

The HPARAMS tab works across a sweep only if each run writes a session start and a session end into
its own event file, without an experiment summary (the tab then infers the columns).
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from google.protobuf.json_format import ParseDict
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from resnet_cifar.identity import COORDINATES, USUAL, number
from resnet_cifar.record.schema import FINAL
from resnet_cifar.record.tracker import Tracker

EVENTS = "events.out.tfevents."
# The CUSTOM SCALARS tab: what belongs together in one chart. Tags are regular expressions.
LAYOUT = {
    "training and validation": {
        quantity: ["Multiline", [f"^{quantity}/(train|val|val_augmented|val_ema)$"]]
        for quantity in ("accuracy", "loss")
    }
}
# The HPARAMS tab's columns: what people vary. Anything else only where it is not as usual.
COLUMNS = ("optimizer", *COORDINATES, "model.width", "trainer.batch_size", "trainer.epochs", "seed")


class Board(Tracker):
    """Writes one run's events, into files directly in its directory.

    Readers are told to forget earlier sessions' events of epochs after `epochs_done`, which are
    trained again. No file is touched, since one may be reading it.
    """

    def __init__(self, directory: Path, epochs_done: int, hparams: dict[str, Any]) -> None:
        earlier = [path.name for path in directory.glob(f"{EVENTS}*")]
        with _name_after(max(earlier, default="")):
            self._writer = SummaryWriter(str(directory), purge_step=epochs_done + 1)
        if earlier:  # readers take the first start they meet for no restart
            restart = Event(step=epochs_done + 1, session_log=SessionLog(status=SessionLog.START))
            self._writer._get_file_writer().add_event(restart)  # type: ignore[no-untyped-call]
        shown = columns(hparams)
        shown |= {k: number(v) for k, v in shown.items() if not isinstance(v, (int, float))}
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        ParseDict({"hparams": shown}, start)
        self._session(metadata.SESSION_START_INFO_TAG, session_start_info=start)
        self._writer.add_custom_scalars(LAYOUT)
        self._writer.flush()

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if "/" in name or name == "lr":
                if value is None and name.startswith("speed/"):
                    continue  # not measured; any other was not finite
                number = float("nan") if value is None else value
                self._writer.add_scalar(name, number, metrics["epoch"])
        self._writer.flush()

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def histograms(self, model: torch.nn.Module, epoch: int) -> None:
        for name, parameter in model.named_parameters():
            self._writer.add_histogram(f"weights/{name}", parameter.detach(), epoch)

    def end(self, status: str) -> None:
        if status not in FINAL:  # it may go on: only the first end is believed
            return
        code = api_pb2.STATUS_SUCCESS if status == "completed" else api_pb2.STATUS_FAILURE
        info = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
        self._session(metadata.SESSION_END_INFO_TAG, session_end_info=info)

    def close(self) -> None:
        self._writer.close()

    def _session(self, tag: str, **info: Any) -> None:
        data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**info))
        summary = Summary(value=[Summary.Value(tag=tag, metadata=data)])
        self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def columns(cell: dict[str, Any]) -> dict[str, Any]:
    """Choose the HPARAMS tab's columns. An empty cell there means: as usual."""
    unusual = [key for key in cell if key not in COLUMNS and cell[key] != USUAL.get(key)]
    return {key: cell[key] for key in (*COLUMNS, *unusual) if key in cell}


@contextlib.contextmanager
def _name_after(newest: str) -> Iterator[None]:
    """Let an event file's name, which begins with the second, sort after that of the `newest`.

    Readers order the files by their names, and never go back: a file begun in the same second, or
    after the clock was set back, would not be read.
    """
    stamp = newest.removeprefix(EVENTS).partition(".")[0]
    begun = max(time.time(), int(stamp) + 1) if stamp.isdecimal() else time.time()
    event_file_writer.time = SimpleNamespace(time=lambda: begun)
    try:
        yield
    finally:
        event_file_writer.time = time
