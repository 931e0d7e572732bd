"""What a party has after secure learning: its files, facts, pictures, and what deserves a look."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.node import architecture
from veilsum.node.datasets import MODEL_FILE
from veilsum.node.summary import AnyChart, Bars, Curve, Fact, Grid
from veilsum.protocols.secure_learning import FRACTION, Cast, Learnt, Params
from veilsum.store.files import write_whole
from veilsum.store.results import write_columns

PREDICTIONS: Final = "predictions"
METRICS: Final = "metrics.json"
_MOST_CLASSES: Final = 12
"""Beyond which a confusion matrix is no picture any more."""


def write(got: Learnt, params: Params, folder: Path) -> dict[str, str]:
    """Write what this party got into its result folder; return what each file is."""
    files = {}
    if got.model is not None:
        got.model.save(folder / MODEL_FILE)
        (folder / MODEL_FILE).chmod(0o600)
        files["trained model"] = MODEL_FILE
    if got.predictions is not None:
        paths = write_columns(predicted(got, params), folder, PREDICTIONS)
        files |= dict(zip(("predictions", "predictions (CSV)"), (path.name for path in paths), strict=True))
    if got.metrics is not None:
        write_whole(folder / METRICS, msgspec.json.format(msgspec.json.encode(measured(got, params))))
        files["metrics"] = METRICS
    return files


def predicted(got: Learnt, params: Params) -> dict[str, NDArray[Any]]:
    """Return the columns of the predictions, one line a row, owner after owner.

    ``row`` counts from 0 in the owner's own source. ``p0``, ``p1`` … are probabilities of the classes, ``p``
    of a bit; ``class`` is the likeliest; ``value`` is a number.
    """
    answers = got.predictions
    assert answers is not None
    groups = got.held_out if params.split == "rows" else dict(list(got.held_out.items())[:1])
    columns: dict[str, NDArray[Any]] = {}
    if params.split == "rows":
        columns["owner"] = np.repeat(np.array(list(groups), object), [len(rows) for rows in groups.values()])
    columns["row"] = np.concatenate(list(groups.values())).astype(np.int64)
    if params.training.loss == "cross_entropy":
        columns |= {f"p{number}": answers[:, number] for number in range(answers.shape[1])}
        columns["class"] = answers.argmax(1)
    elif params.training.loss == "bce":
        columns |= {"p": answers[:, 0], "class": (answers[:, 0] > 0.5).astype(np.int64)}
    else:
        columns |= {"value": answers[:, 0]}
    return columns


def measured(got: Learnt, params: Params) -> dict[str, Any]:
    """Return the metrics as ``metrics.json`` holds them."""
    assert got.metrics is not None
    found: dict[str, Any] = {"rows": _tested(got, params), "loss": got.metrics[:, 0].tolist()}
    if params.training.loss != "mse":
        found["accuracy"] = got.metrics[:, 1].tolist()
    if got.confusion is not None:
        found["confusion"] = got.confusion.tolist()
        found["accuracy"][-1] = _accuracy(got)  # counted, where the curve is a rounded mean
    return found


def facts(got: Learnt, params: Params, cast: Cast) -> tuple[Fact, ...]:
    """Return what this party learnt, as lines of a table."""
    found = [Fact(f"rows of {name}", count, "rows") for name, count in got.rows.items()]
    held = _tested(got, params)
    found.append(
        Fact("rows predicted" if params.task == "predict" else "rows held out, all owners", held, "rows")
    )
    found.append(Fact("computing parties", ", ".join(cast.computers)))
    found.append(Fact("assumed", "no two of them collude"))
    if params.task == "train":
        found.append(Fact("epochs", got.epochs, "epochs"))
    if got.metrics is not None:
        word = "held-out loss" if params.task == "train" else "loss"
        found.append(Fact(word, round(float(got.metrics[-1, 0]), 5)))
        if params.training.loss != "mse":
            found.append(Fact(word.replace("loss", "accuracy"), round(100 * _accuracy(got), 2), "%"))
    if got.model is not None:
        found.append(
            Fact("numbers in the trained model", sum(w.size for w in got.model.weights.values()), "numbers")
        )
    if got.predictions is not None:
        found.append(Fact("predictions", len(got.predictions), "rows"))
    if got.traffic is not None:
        found.append(Fact("rounds of computing", got.traffic.rounds, "rounds"))
        found.append(Fact("sent in computing", got.traffic.sent, "B"))
        found.append(Fact("received in computing", got.traffic.received, "B"))
    return tuple(found)


def warnings(got: Learnt, params: Params) -> tuple[str, ...]:
    """Return what about the result deserves a look, each one sentence."""
    found = []
    if got.confusion is not None and params.task == "train":
        commonest = got.confusion.sum(1).max() / max(got.confusion.sum(), 1)
        if _accuracy(got) <= commonest:
            found.append(
                f"the model answers no better than the commonest class would ({100 * commonest:.1f} %): "
                "train longer, change the rate, or look at the columns"
            )
    if got.metrics is not None and len(got.metrics) > 1 and got.metrics[-1, 0] > got.metrics[0, 0]:
        found.append("the loss grew in training: lower training.optimiser.rate, or declare wider ranges")
    return tuple(found)


def algorithms(got: Learnt, params: Params) -> dict[str, Any]:
    """Return the parameters and code paths that were in use."""
    return {
        "engine": params.engine,
        "ring": "integers modulo 2^64",
        "fraction bits": FRACTION,
        "model": architecture.in_brief(got.graph),
        "training": msgspec.to_builtins(params.training) if params.task == "train" else {},
        "ranges": msgspec.to_builtins(params.ranges),
        "split": params.split,
    }


def charts(got: Learnt, params: Params) -> tuple[AnyChart, ...]:
    """Return the pictures: the curves of training, the confusion matrix, where bytes and rounds went."""
    found: list[AnyChart] = []
    if got.metrics is not None and len(got.metrics) > 1:
        epochs = tuple(float(n) for n in range(1, len(got.metrics) + 1))
        for at, word, scale, unit in ((0, "loss", 1, ""), (1, "accuracy", 100, "%")):
            if at == 0 or params.training.loss != "mse":
                values = tuple(max(round(scale * float(v), 6), 0.0) for v in got.metrics[:, at])
                found.append(
                    Curve(
                        title=f"Held-out {word} after each epoch",
                        x_name="epoch",
                        x=epochs,
                        series={word: values},
                        unit=unit,
                    )
                )
    if got.confusion is not None and len(got.confusion) <= _MOST_CLASSES:
        labels = tuple(str(number) for number in range(len(got.confusion)))
        counts = tuple(tuple(int(n) for n in row) for row in got.confusion)
        found.append(Grid(title="Confusion matrix", labels=labels, counts=counts))
    if got.by_step:
        parts = tuple(got.by_step)
        sent = {"sent": tuple(float(t.sent) for t in got.by_step.values())}
        sent["received"] = tuple(float(t.received) for t in got.by_step.values())
        rounds = {"rounds": tuple(float(t.rounds) for t in got.by_step.values())}
        found.append(Bars(title="Bytes of computing, by part", groups=parts, series=sent, unit="B"))
        found.append(Bars(title="Rounds of computing, by part", groups=parts, series=rounds))
    return tuple(found)


def _accuracy(got: Learnt) -> float:
    """Return the share of right answers, counted where counts are there."""
    if got.confusion is not None:
        return float(np.trace(got.confusion) / max(int(got.confusion.sum()), 1))
    assert got.metrics is not None
    return float(got.metrics[-1, 1])


def _tested(got: Learnt, params: Params) -> int:
    """Return how many rows were measured or predicted."""
    sizes = [len(rows) for rows in got.held_out.values()]
    return sum(sizes) if params.split == "rows" else sizes[0]
