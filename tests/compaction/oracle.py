"""What compaction should do, written in NumPy with loops, one row at a time."""

import numpy as np


def plan(keep, num_slots):
    """Positions and mask, as lists built row by row."""
    batch, length = keep.shape
    positions = np.full((batch, num_slots), length - 1)
    mask = np.zeros((batch, num_slots), bool)
    for row in range(batch):
        slot = 0
        for position in range(length):
            if keep[row, position]:
                positions[row, slot], mask[row, slot] = position, True
                slot += 1
    return positions, mask


def restrict(keep, scores, capacity, segments=None):
    """Drops the worst position of an overfull row until it fits; the best one of each segment after all others."""
    keep = keep.copy()
    dropped = np.zeros(keep.shape[0], int)
    for row in range(keep.shape[0]):
        best = set()
        if segments is not None:
            for segment in set(segments[row]):
                members = np.flatnonzero(keep[row] & (segments[row] == segment))
                if len(members):
                    best.add(max(members, key=lambda position: (scores[row, position], -position)))
        while keep[row].sum() > capacity:
            worst = min(
                np.flatnonzero(keep[row]), key=lambda position: (position in best, scores[row, position], -position)
            )
            keep[row, worst] = False
            dropped[row] += 1
    return keep, dropped


def never_empty(keep, scores, input_mask):
    """Keeps the best input position of a row that would be empty."""
    keep = keep & input_mask
    rescued = np.zeros(keep.shape[0], bool)
    for row in range(keep.shape[0]):
        inputs = np.flatnonzero(input_mask[row])
        if len(inputs) and not keep[row].any():
            keep[row, max(inputs, key=lambda position: (scores[row, position], -position))] = True
            rescued[row] = True
    return keep, rescued


def rung_index(rungs, count):
    """The first rung that fits."""
    return next((index for index, rung in enumerate(rungs) if rung >= count), len(rungs) - 1)
