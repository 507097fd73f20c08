"""The history as a TensorBoard event file, one tag per column, one folder per checkpoint.

Written from history.csv's rows as a whole; neither the tensorboard package nor a running writer is needed.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from training.framework import tf

TAGS = ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "seconds")
OF_PRESERVE = ("train_preserve", "val_preserve")  # empty but for phases that preserve evidence


def write_events(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write `folder/CHECKPOINT/events.out.tfevents.0` for every checkpoint in the rows."""
    by_checkpoint: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_checkpoint[row["checkpoint"]].append(row)
    for checkpoint, own in by_checkpoint.items():
        target = folder / checkpoint
        target.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(target / "events.out.tfevents.0")) as writer:
            for event in _events(own):
                writer.write(event.SerializeToString())


def _events(rows: list[dict[str, Any]]) -> list[Any]:
    kind = tf.compat.v1.Event
    events, clock = [kind(wall_time=0.0, file_version="brain.Event:2")], 0.0
    for row in rows:
        clock += float(row["seconds"])
        tags = [*TAGS, *(tag for tag in OF_PRESERVE if row.get(tag))]
        values = [tf.compat.v1.Summary.Value(tag=tag, simple_value=float(row[tag])) for tag in tags]
        summary = tf.compat.v1.Summary(value=values)
        events.append(kind(wall_time=clock, step=int(row["epoch"]), summary=summary))
    return events
