"""Files and the one writer of them that a run leaves: record, lines, checkpoints, trackers."""
