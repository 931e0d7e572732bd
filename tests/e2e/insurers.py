"""Two insurers and a referee with small files, as the demo has them."""

import datetime as dt
from pathlib import Path
from typing import NamedTuple

from veilsum.node.homes import make_homes

DATA = """
[data.customers]
source = "customers.csv"
ids = {{ columns = ["phone"], kind = "phone", region = "US", duplicates = "{duplicates}" }}
{more}
"""

JOB = """\
kind = "hidden_psi"
purpose = "{purpose}"
expires = {expires}
step_timeout = 30.0
[parties]
member = ["insurer-a", "insurer-b"]
collector = "{collector}"
[data]
insurer-a = "customers"
insurer-b = "customers"
[params]
share_matches = true
batch = 50
"""


class Insurers(NamedTuple):
    folder: Path
    homes: dict[str, Path]
    job: Path
    ids: dict[str, list[str]]

    @property
    def common(self):
        return set(self.ids["insurer-a"]) & set(self.ids["insurer-b"])


def phone(number):
    return f"+1415{2000000 + number * 97:07d}"


def make(folder, *, collector="referee", sizes=(90, 100), shared=50, duplicates="refuse", more=""):
    a = [phone(i) for i in range(sizes[0])]
    b = [phone(sizes[0] - shared + i) for i in range(sizes[1])]
    ids = {"insurer-a": a, "insurer-b": b}
    parties = {name: DATA.format(duplicates=duplicates, more=more) for name in ids}
    if collector not in parties:
        parties[collector] = ""
    make_homes(folder, parties)
    for name, numbers in ids.items():
        lines = [f"{n},secret-{name}-{i:05d}" for i, n in enumerate(numbers)]
        (folder / name / "customers.csv").write_text("phone,note\n" + "\n".join(lines) + "\n")
    job = folder / "job.toml"
    expires = dt.date.today() + dt.timedelta(days=30)  # noqa: DTZ011 -- a month is far from any border of days
    job.write_text(JOB.format(purpose="test", expires=expires, collector=collector))
    return Insurers(folder, {name: folder / name for name in parties}, job, ids)


def matched(insurers, name, artefact):
    import duckdb

    path = insurers.homes[name] / "results" / artefact / "matched.csv"
    rows = duckdb.sql(f"SELECT phone FROM read_csv('{path}', all_varchar = true)").fetchall()
    return {row[0] for row in rows}
