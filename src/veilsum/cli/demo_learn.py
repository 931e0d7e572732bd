"""The demo's chapter on learning: three hospitals train on shares, then one asks the other's model."""

import asyncio
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from veilsum.cli.output import Printer
from veilsum.cli.processes import play, records
from veilsum.cli.progress import watching
from veilsum.errors import VeilsumError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from veilsum.jobs import Job
    from veilsum.learn.model import Model
    from veilsum.node.demo_hospitals import Patients
    from veilsum.node.summary import Summary
    from veilsum.protocols.secure_learning import Params

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
_CLOSE = 0.02
"""How far a probability on shares may lie from that of the twin in float64, after all epochs."""

TRAIN = """\
kind = "secure_learning"
purpose = "demo: a model of all hospitals' patients, whose data no one shows"
expires = {expires}

[parties]
owner = ["hospital-a", "hospital-b", "hospital-c"]
computer = ["hospital-a", "hospital-b", "hospital-c"]

[data]
hospital-a = "patients"
hospital-b = "patients"
hospital-c = "patients"

[params]
target = "malignant"
model = {{ kind = "mlp", hidden = [16] }}

[params.training]
epochs = 15
batch = 32
seed = 7
{optimiser}

[params.release]
metrics = ["hospital-a", "hospital-b", "hospital-c"]
predictions = ["hospital-a", "hospital-b", "hospital-c"]
weights = ["hospital-a"]

[params.features]
{features}
"""

PREDICT = """\
kind = "secure_learning"
purpose = "demo: hospital-b asks hospital-a's model about new patients"
expires = {expires}
inputs = {{ model = "{model}" }}

[parties]
owner = "hospital-b"
modeller = "hospital-a"
computer = ["hospital-a", "hospital-b", "hospital-c"]

[data]
hospital-b = "new"

[params]
task = "predict"
model = {{ kind = "given", digest = "{digest}" }}

[params.release]
predictions = ["hospital-b"]

[params.features]
{features}
"""

DATA = """
[data.patients]
source = "patients.parquet"

[data.new]
source = "new.parquet"
"""


def tell(printer: Printer, folder: Path) -> None:
    """Play the chapter in a folder that is empty, and say what came of it."""
    from veilsum.node.demo_hospitals import write_hospitals
    from veilsum.node.learning import assumption
    from veilsum.node.report import render
    from veilsum.store.files import write_whole

    began = time.monotonic()
    printer.say(
        "3  learn: three hospitals train one model, and none sees another's patients or the model's steps"
    )
    patients = write_hospitals(folder)
    job = _write_parties(folder)
    with watching(printer) as sink:
        trained = asyncio.run(play(folder, job, HOSPITALS, sink))
        asked = asyncio.run(play(folder, _write_question(folder, trained[0]), HOSPITALS, sink))
    proofs = records(folder, HOSPITALS)
    page = folder / "report.html"
    write_whole(page, render([*trained, *asked], title="veilsum demo", records=proofs).encode(), mode=0o644)
    compared = compare(folder, patients, trained[0], asked[0])
    seconds = time.monotonic() - began
    _tell_training(printer, trained, compared)
    _tell_question(printer, asked, compared)
    printer.say(f"assumption: {assumption(HOSPITALS)}")
    printer.say("data: Breast Cancer Wisconsin (Diagnostic), UCI, CC BY 4.0, shared out for this demo")
    printer.say("here all three run on one machine: that shows the protocol, and protects nothing")
    printer.say(f"report: {page}")
    printer.say(f"whole chapter: {seconds:.1f} s")
    many = f"{proofs[0].jobs} jobs, chain OK at {len(proofs)} parties"
    printer.say(f"record: {many}; verify it: {proofs[0].command}")
    printer.result(
        {
            "artefacts": [trained[0].artefact, asked[0].artefact],
            **compared._asdict(),
            "seconds": round(seconds, 2),
            "report": str(page),
        }
    )
    if not compared.right:
        raise VeilsumError("the demo's result differs from the plaintext twin's: this is a bug")


def _write_parties(folder: Path) -> Path:
    from veilsum.node.homes import make_homes

    make_homes(folder, dict.fromkeys(HOSPITALS, DATA), name="hospitals")
    path = folder / "train.toml"
    optimiser = 'optimiser = { kind = "sgd", rate = 0.1, momentum = 0.9 }'
    path.write_text(TRAIN.format(expires=_expires(), features=_ranges(), optimiser=optimiser))
    return path


def _write_question(folder: Path, trained: "Summary") -> Path:
    from veilsum.learn.model import Model

    graph = Model.load(_result(folder, "hospital-a", trained) / "model.vsm").graph
    path = folder / "predict.toml"
    digest = graph.digest().hex()
    path.write_text(
        PREDICT.format(expires=_expires(), features=_ranges(), model=trained.artefact, digest=digest)
    )
    return path


def _expires() -> dt.date:
    return dt.datetime.now(dt.UTC).date() + dt.timedelta(days=30)


def _ranges() -> str:
    from veilsum.node.demo_hospitals import RANGES

    return "\n".join(f"{name} = [{low:g}, {high:g}]" for name, (low, high) in RANGES.items())


def _result(folder: Path, party: str, summary: "Summary") -> Path:
    return folder / party / "results" / summary.artefact


# -- the comparison, which nobody could make but a demo that holds everybody's rows


class Compared(NamedTuple):
    """What the plaintext twin says.

    Attributes:
        accuracy: who learnt how → share of right answers for the held-out rows of all hospitals.
        apart: the largest distance of a probability on shares from the twin's, held-out rows.
        asked: rows of the question.
        asked_right: how many of them are answered rightly.
        asked_apart: the largest distance of its probabilities from the model's own in the clear.
    """

    accuracy: dict[str, float]
    apart: float
    asked: int
    asked_right: int
    asked_apart: float

    @property
    def right(self) -> bool:
        """Whether shares and plaintext agree as closely as fixed point allows."""
        return max(self.apart, self.asked_apart) < _CLOSE


def compare(folder: Path, patients: "Patients", trained: "Summary", asked: "Summary") -> Compared:
    """Train the twin and each hospital's own model in the clear, and compare everything."""
    from veilsum.learn.model import Model
    from veilsum.learn.twin import forward
    from veilsum.node.demo_hospitals import TARGET, softmax

    plain = _in_the_clear(folder / "train.toml", patients)
    shared = _probabilities(_result(folder, "hospital-a", trained) / "predictions.parquet")
    truth = plain.truth.argmax(1)
    accuracy = {"all hospitals, on shares": float((shared.argmax(1) == truth).mean())}
    answers = {
        name: softmax(forward(model, {"x": plain.held_out})[0]) for name, model in plain.models.items()
    }
    accuracy |= {name: float((answer.argmax(1) == truth).mean()) for name, answer in answers.items()}
    twin = next(iter(answers.values()))
    told = _probabilities(_result(folder, "hospital-b", asked) / "predictions.parquet")
    model = Model.load(_result(folder, "hospital-a", trained) / "model.vsm")
    own = softmax(forward(model, {"x": plain.new})[0])
    diagnosis = patients.new[TARGET].astype(int)
    return Compared(
        accuracy,
        float(np.abs(shared - twin).max()),
        len(told),
        int((told.argmax(1) == diagnosis).sum()),
        float(np.abs(told - own).max()),
    )


class _Plain(NamedTuple):
    """Models that were trained in the clear, and what to ask them."""

    models: "dict[str, Model]"
    held_out: "NDArray[np.float64]"
    truth: "NDArray[np.float64]"
    new: "NDArray[np.float64]"


def _in_the_clear(path: Path, patients: "Patients") -> _Plain:
    """Train the job's model on all rows that it learns from, and on each hospital's alone."""
    from veilsum.node import config
    from veilsum.node.demo_hospitals import train_in_the_clear
    from veilsum.node.kinds import params_of
    from veilsum.parties import PartyId
    from veilsum.protocols import secure_learning

    job: Job = config.load_job(path)
    params: Params = params_of(job)
    graph = secure_learning.graph_of(params)
    rows = {
        PartyId(name): secure_learning.prepare(params, of, PartyId(name))
        for name, of in patients.columns.items()
    }
    plan = secure_learning.Plan.of(params, {name: len(own) for name, own in rows.items()}, graph)
    width = secure_learning.input_width(params)
    whole = np.concatenate(list(rows.values()))
    learnt = {"all hospitals, in the clear": whole[plan.work.learnt]}
    for name, own in rows.items():
        learnt[f"{name} alone"] = np.delete(own, plan.held_out[name], axis=0)
    models = {
        name: train_in_the_clear(graph, params.training, some[:, :width], some[:, width:])
        for name, some in learnt.items()
    }
    tested = whole[plan.work.tested]
    new = secure_learning.prepare(params, patients.new, PartyId(HOSPITALS[1]))
    return _Plain(models, tested[:, :width], tested[:, width:], new[:, :width])


def _probabilities(file: Path) -> "NDArray[np.float64]":
    import duckdb

    with duckdb.connect() as database:
        found = database.execute("SELECT p0, p1 FROM read_parquet(?)", [str(file)]).fetchnumpy()
    return np.stack([found["p0"], found["p1"]], axis=1)


# -- words


def _tell_training(printer: Printer, trained: "list[Summary]", compared: Compared) -> None:
    printer.say()
    printer.table(
        ["trained on", "right answers, held-out rows"],
        [[name, f"{100 * part:.1f} %"] for name, part in compared.accuracy.items()],
    )
    printer.say(f"a probability on shares is at most {compared.apart:.1g} from that in the clear")
    printer.say()
    _tell_costs(printer, trained)
    _tell_leaks(printer, trained[0])


def _tell_question(printer: Printer, asked: "list[Summary]", compared: Compared) -> None:
    printer.say(
        f"hospital-b then asks the model of hospital-a about {compared.asked} new patients: "
        f"{compared.asked_right} right, at most {compared.asked_apart:.1g} from the model in the clear"
    )
    printer.say()
    _tell_costs(printer, asked)
    _tell_leaks(printer, asked[0])


def _tell_costs(printer: Printer, summaries: "list[Summary]") -> None:
    names = ("rounds of computing", "sent in computing")
    told: list[dict[str, Any]] = [{fact.name: fact.value for fact in s.facts} for s in summaries]
    rows = [[name, *(f"{facts.get(name, 0):,}" for facts in told)] for name in names]
    rows.append(["bytes sent, all steps", *(f"{s.sent:,}" for s in summaries)])
    rows.append(["seconds", *(f"{s.seconds:.2f}" for s in summaries)])
    printer.table(["cost at", *(s.party for s in summaries)], rows)
    printer.say()


def _tell_leaks(printer: Printer, summary: "Summary") -> None:
    found: dict[str, list[str]] = {}
    for leak in summary.leaks:
        found.setdefault(leak.what, []).append(leak.who)
    printer.table(["who", "will have learnt"], [[", ".join(who), what] for what, who in found.items()])
    printer.say()
