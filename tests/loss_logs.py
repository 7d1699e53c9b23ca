"""Logs of made-up runs, and what a picture of them holds, for the tests of plot_loss.py."""

import json

import matplotlib.pyplot as plt
import pytest

import plot_loss

TAIL = "| bce 0.4000 auc 0.9000 acc 0.8000"
TRAIN = "| train 0.5 lr 0.01 | 10.0 img/s, data wait 3%, 9 s"
# Three epochs, of which the second was trained again after a resume; one was not validated.
LOG = f"""run: random weights; seed 1
epoch 0 fake 0.7000 real 0.6000 {TAIL} {TRAIN}
epoch 1 fake 0.3000 real 0.5000 {TAIL} {TRAIN}
epoch 2 fake - real - | bce - auc - acc - {TRAIN}
run: from epoch 1, step 0 weights of last
epoch 1 fake 0.4000 real 0.2000 {TAIL} {TRAIN}
epoch 3 fake 0.2000 real 0.5000 {TAIL} {TRAIN}
"""
# With an average of the weights and two further sets; the resume was without either.
FULL_LOG = f"""run: random weights; seed 1
epoch 0 fake 0.7000 real 0.6000 {TAIL} {TRAIN}
epoch 0 average fake 0.9000 real 0.8000 {TAIL}
epoch 0 on celeb fake 1.7000 real 1.4000 {TAIL}
epoch 0 on phone-crops_2 fake 2.0000 real 2.5000 {TAIL}
epoch 1 fake 0.3000 real 0.5000 {TAIL} {TRAIN}
epoch 1 average fake 0.0100 real 0.0200 {TAIL}
epoch 1 on celeb fake 0.0300 real 0.0400 {TAIL}
epoch 3 fake 0.2000 real 0.5000 {TAIL} {TRAIN}
epoch 3 average fake 0.1800 real 0.4000 {TAIL}
epoch 3 on celeb fake 0.7000 real 0.4000 {TAIL}
epoch 3 on phone-crops_2 fake 0.9000 real - | bce - auc - acc 0.8000
run: from epoch 1, step 0 weights of last
epoch 1 fake 0.4000 real 0.2000 {TAIL} {TRAIN}
epoch 1 on celeb fake 0.5000 real 0.6000 {TAIL}
"""


def video(fake, real):
    """A record's metrics of videos, as far as they count here."""
    return {"log_loss_fake": fake, "log_loss_real": real, "auc": 0.9}


def write_json_log(path, *records):
    rows = [{"event": "start", "config": {"epochs": 3}}, *({"event": "epoch", **record} for record in records)]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"event": "epo')
    return path


def plotted(*arguments):
    """Run the command; returns the axes that it drew."""
    assert plot_loss.main([*map(str, arguments)]) == 0
    return plt.gcf().axes[0]


def lines_of(axis):
    """Label -> (epochs, losses), of lines with a label and a point."""
    return {
        line.get_label(): (list(line.get_xdata()), pytest.approx(list(line.get_ydata())))
        for line in axis.get_lines()
        if not line.get_label().startswith("_") and len(line.get_xdata())
    }


def rings_of(axis):
    """Colour -> the points that are marked as the best."""
    rings = [line for line in axis.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return {
        line.get_markeredgecolor(): [(x, round(y, 6)) for x, y in zip(*line.get_data(), strict=True)] for line in rings
    }


def colour_of(axis, label):
    (line,) = [line for line in axis.get_lines() if line.get_label().startswith(label)]
    return line.get_color()
