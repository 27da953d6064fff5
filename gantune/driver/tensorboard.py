"""TensorBoard's view of a run: a folder a trial below tensorboard/, fed from the rows as they are written.

Tune's own logger writes where Tune does, into what we delete, and begins a series anew whenever a trial is issued
again. Here each session appends to one file a trial, whole records only, and closes it after every row: hundreds of
trials hold nothing open, and whatever a kill leaves can be read.
"""

import io
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, text

from gantune.mirror import BOARD
from gantune.pictures import MOMENT
from gantune.results import ENDED, Row
from gantune.run import Run

LARGE = 50_000  # bytes of a picture beyond which it is packed closer: their checksum, in Python, takes 0.2 s a MB


class TensorBoard:
    """The event files of one session of a run. A run at a URI is sent them when a trial ends or rests."""

    name = "tensorboard"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"

    def note(self, row: Row, fresh: bool) -> None:
        """Add a row; `fresh`: whether it tells of samples that none before told of. Raises OSError or GantuneError."""
        trial = self._run.trial_folder(row.trial, row.repeat)
        path = self._run.folder / BOARD / trial.name / self._file
        summaries = [] if path.parent.exists() else [_start(row)]
        if fresh:
            summaries += [_scalars(row), *_pictures(trial / MOMENT.format(row.samples_seen))]
        if row.state in ENDED:
            summaries += _end(row)
        events = [_event(summary, row.samples_seen) for summary in summaries]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            events.insert(0, Event(wall_time=time.time(), file_version="brain.Event:2"))
        with open(path, "ab") as stream:
            stream.write(b"".join(map(_record, events)))
        if row.state != "running":
            self._run.files.send(path)

    def close(self) -> str:
        """Nothing is open."""
        return ""


def _scalars(row: Row) -> Summary:
    named = {"score": row.score, "best_score": row.best_score, "trial_seconds": row.trial_seconds}
    named |= {f"metrics/{name}": value for name, value in row.metrics.items()}
    return Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in named.items() if value is not None]
    )


def _pictures(path: Path) -> Iterator[Summary]:
    """A report's own picture, where this machine has it."""
    try:
        content = path.read_bytes()
        image = Image.open(io.BytesIO(content))
    except OSError:
        return
    if len(content) > LARGE:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=85)
        content = packed.getvalue()
    picture = Summary.Image(
        height=image.height, width=image.width, colorspace=len(image.getbands()), encoded_image_string=content
    )
    yield Summary(value=[Summary.Value(tag="samples", image=picture)])


def _start(row: Row) -> Summary:
    """The configuration, for the table of hyperparameters; its columns follow from all trials' together."""
    _, start, _ = hparams({name: _plain(value) for name, value in json.loads(row.config).items()}, {})
    return start


def _plain(value: object) -> object:
    return "none" if value is None else value


def _end(row: Row) -> list[Summary]:
    status = Status.Value("STATUS_FAILURE" if row.state in ("failed", "collapsed") else "STATUS_SUCCESS")
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=status), version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    ended = Summary.Value(tag="_hparams_/session_end_info", metadata=SummaryMetadata(plugin_data=plugin))
    return [Summary(value=[ended]), text("end", f"{row.state}: {row.cause}" if row.cause else row.state)]


def _event(summary: Summary, samples_seen: int) -> Event:
    return Event(wall_time=time.time(), step=samples_seen, summary=summary)


def _record(event: Event) -> bytes:
    """An event as TFRecord frames it."""
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(checks) + data + next(checks)
