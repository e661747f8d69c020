"""TensorBoard's event files, written without TensorFlow, which tensorboard's own writer imports if it can."""

import itertools
import os
import socket
import time

from mrt5_jax.runs.files import AnyPath, as_path
from mrt5_jax.runs.mirrored import Mirrored
from mrt5_jax.runs.model_dir import EVENTS
from mrt5_jax.training.writers import Numbers, with_timing

_FORMAT = "brain.Event:2"
_numbers = itertools.count()


class TensorBoardWriter:
    """TensorBoard events in MODEL_DIR/events; clocked numbers under timing/."""

    def __init__(self, model_dir: AnyPath) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._mirrored = Mirrored(as_path(model_dir) / EVENTS)
        folder = self._mirrored.folder
        folder.mkdir(parents=True, exist_ok=True)
        # The name that TensorFlow gives such a file: TensorBoard reads a folder's files in the order of their seconds.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version=_FORMAT).SerializeToString())

    def write(self, step: int, metrics: Numbers, timing: Numbers) -> None:
        """See `writers.Writer`."""
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.types_pb2 import DT_FLOAT  # pyright: ignore[reportAttributeAccessIssue]

        kind = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"), data_class=DATA_CLASS_SCALAR
        )
        values = [
            Summary.Value(tag=name, metadata=kind, tensor=TensorProto(dtype=DT_FLOAT, float_val=[number]))
            for name, number in with_timing(metrics, timing).items()
        ]
        self._records.write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
        self._mirrored.send_soon(self._file.flush)

    def flush(self) -> None:
        """See `writers.Writer`."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """See `writers.Writer`."""
        self._file.close()
        self._mirrored.close()
