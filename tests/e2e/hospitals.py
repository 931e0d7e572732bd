"""Three hospitals that own rows and compute, with small files of made-up patients."""

import datetime as dt
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from veilsum.node.homes import make_homes

NAMES = ("hospital-a", "hospital-b", "hospital-c")
COLUMNS = 6
DATA = """
[data.patients]
source = "patients.csv"
{more}
"""

JOB = """\
kind = "secure_learning"
purpose = "test"
expires = {expires}
step_timeout = 30.0
{inputs}
[parties]
owner = {owners}
computer = ["hospital-a", "hospital-b", "hospital-c"]
{parties}
[data]
{data}
[params]
target = "{target}"
holdout = 0.25
{params}
features = {{ "x[0-5]" = [-4, 4] }}
[params.release]
{release}
"""
TRAIN = """\
model = { kind = "mlp", hidden = [4] }
training = { epochs = 3, batch = 40, optimiser = { kind = "sgd", rate = 0.4, momentum = 0.5 } }
"""
RELEASE = """\
metrics = ["hospital-a", "hospital-b", "hospital-c"]
predictions = ["hospital-b"]
weights = ["hospital-a"]
"""


class Hospitals(NamedTuple):
    folder: Path
    homes: dict[str, Path]
    job: Path
    rows: dict[str, list[list[str]]]


def make(
    folder, *, more="", params=TRAIN, release=RELEASE, owners=NAMES, target="ill", parties="", inputs=""
):
    make_homes(folder, {name: DATA.format(more=more) for name in NAMES})
    homes = {name: folder / name for name in NAMES}
    rows = {name: patients(seed) for seed, name in enumerate(NAMES)}
    for name, home in homes.items():
        write(home, rows[name])
    job = folder / "job.toml"
    write_job(
        job, params=params, release=release, owners=owners, target=target, parties=parties, inputs=inputs
    )
    return Hospitals(folder, homes, job, rows)


def write_job(path, *, params, release, owners=NAMES, target="ill", parties="", inputs=""):
    expires = dt.date.today() + dt.timedelta(days=30)  # noqa: DTZ011 -- a month is far from any border of days
    text = JOB.format(
        expires=expires,
        owners=str(list(owners)).replace("'", '"'),
        data="\n".join(f'{name} = "patients"' for name in owners),
        params=params,
        release=release,
        target=target,
        parties=parties,
        inputs=inputs,
    )
    path.write_text(text)


def patients(seed, count=60):
    """Return rows of odd decimals, which can be searched for, and a label that follows from them."""
    generator = np.random.default_rng(seed)
    weights = np.array([1, -2, 1.5, 0.5, -1, 2])
    found = []
    for _ in range(count):
        x = np.clip(generator.normal(size=COLUMNS), -3.9, 3.9)
        found.append([*(f"{value:.7f}" for value in x), str(int(x @ weights > 0))])
    return found


def write(home, rows):
    head = ",".join([*(f"x{i}" for i in range(COLUMNS)), "ill", "name"])
    lines = [",".join([*row, f"secret-{home.name}-{i:04d}"]) for i, row in enumerate(rows)]
    (home / "patients.csv").write_text("\n".join([head, *lines]) + "\n")


def table(path):
    """Return the columns of a Parquet file."""
    with duckdb.connect() as database:
        found = database.execute("SELECT * FROM read_parquet(?)", [str(path)])
        names = [about[0] for about in found.description]
        return dict(zip(names, zip(*found.fetchall(), strict=True), strict=True))
