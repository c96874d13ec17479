"""TensorBoard: the curves of a run, its pictures and its row in HPARAMS, in one event file.

The HPARAMS tab works across a sweep only if each run writes a session start and a session end into
its own event file, without an experiment summary (the tab then infers the columns). TensorBoard
believes the first session end it meets, so an interrupted run writes none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

PLUGIN = "hparams"
START, END = "_hparams_/session_start_info", "_hparams_/session_end_info"
LAYOUT_TAG = "custom_scalars__config__"
# The CUSTOM SCALARS tab: what belongs together in one chart. Tags are regular expressions.
LAYOUT = {
    "training and validation": {
        quantity: ["Multiline", [f"^{quantity}/(train|val|val_augmented)$"]]
        for quantity in ("accuracy", "loss")
    },
    "schedule and speed": {
        "learning rate": ["Multiline", ["^lr$"]],
        "images per second": ["Multiline", ["^speed/images_per_second$"]],
    },
}
STATUS = {"completed": api_pb2.STATUS_SUCCESS}  # everything else that ends a run is a failure


class Board:
    """Writes one run's events.

    Args:
        directory: the run directory; the event file lies directly in it.
        epochs_done: earlier sessions' events up to this epoch are carried over into one new file;
            later ones belong to epochs that are trained again.
        hparams: the columns of the HPARAMS tab.
    """

    def __init__(self, directory: Path, epochs_done: int, hparams: dict[str, Any]) -> None:
        old = sorted(directory.glob("events.out.tfevents.*"))
        carried = list(_carried_over(old, epochs_done))
        self._writer = SummaryWriter(str(directory))
        events = self._writer._get_file_writer().event_writer  # type: ignore[no-untyped-call]
        for event in carried:
            events.add_event(event)
        tags = {value.tag for event in carried for value in event.summary.value}
        if START not in tags:
            self._session(START, session_start_info=_start(hparams))
        if LAYOUT_TAG not in tags:
            self._writer.add_custom_scalars(LAYOUT)
        self._writer.flush()
        for path in old:
            path.unlink()

    def scalars(self, metrics: dict[str, Any]) -> None:
        """The epoch's numbers under their own names, and to disk."""
        for name, value in metrics.items():
            if "/" in name or name == "lr":
                number = float("nan") if value is None else value
                self._writer.add_scalar(name, number, metrics["epoch"])
        self._writer.flush()

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """An image uint8 [height, width, 3]."""
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def histograms(self, model: torch.nn.Module, epoch: int) -> None:
        """Every parameter and its last gradient."""
        for name, parameter in model.named_parameters():
            self._writer.add_histogram(f"weights/{name}", parameter.detach(), epoch)
            if parameter.grad is not None:
                self._writer.add_histogram(f"gradients/{name}", parameter.grad, epoch)

    def end(self, status: str) -> None:
        """The run's outcome. Not called for a run that will go on."""
        code = STATUS.get(status, api_pb2.STATUS_FAILURE)
        info = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
        self._session(END, session_end_info=info)

    def close(self) -> None:
        self._writer.close()

    def _session(self, tag: str, **info: Any) -> None:
        data = plugin_data_pb2.HParamsPluginData(version=0, **info)
        plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN, content=data.SerializeToString())
        metadata = SummaryMetadata(plugin_data=plugin)
        summary = Summary(value=[Summary.Value(tag=tag, metadata=metadata)])
        self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def _start(hparams: dict[str, Any]) -> plugin_data_pb2.SessionStartInfo:
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hparams.items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[key].number_value = value
        else:
            info.hparams[key].string_value = str(value)
    return info


def _carried_over(paths: list[Path], epochs_done: int) -> Iterator[Event]:
    """Earlier sessions' summaries up to `epochs_done`, each once, without any session end."""
    seen: set[tuple[str, int]] = set()
    for path in paths:
        for event in LegacyEventFileLoader(str(path)).Load():  # stops at a torn record
            if event.step > epochs_done or not event.HasField("summary"):
                continue
            values = [
                value
                for value in event.summary.value
                if value.tag != END and (value.tag, event.step) not in seen
            ]
            seen.update((value.tag, event.step) for value in values)
            if values:
                kept = Event(wall_time=event.wall_time, step=event.step)
                kept.summary.value.extend(values)
                yield kept
