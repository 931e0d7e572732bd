"""Two insurers, and where the job has one a referee, with small files as the demo has them."""

import datetime as dt
from pathlib import Path
from typing import NamedTuple

import duckdb

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
{parties}
[data]
insurer-a = "customers"
insurer-b = "customers"
[params]
{params}
batch = 50
"""

MEMBERS = 'member = ["insurer-a", "insurer-b"]'
PAIR = 'client = "insurer-a"\nsigner = "insurer-b"'
MODES = {
    "open": (MEMBERS + '\ncollector = "{collector}"', "share_matches = true"),
    "hidden_one": (PAIR, 'mode = "hidden_one"\nkey_bits = 2048'),
    "hidden_union": (MEMBERS, 'mode = "hidden_union"'),
}


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


def make(
    folder,
    *,
    mode="open",
    collector="referee",
    sizes=(90, 100),
    shared=50,
    duplicates="refuse",
    more="",
    params="",
):
    a = [phone(i) for i in range(sizes[0])]
    b = [phone(sizes[0] - shared + i) for i in range(sizes[1])]
    ids = {"insurer-a": a, "insurer-b": b}
    parties = {name: DATA.format(duplicates=duplicates, more=more) for name in ids}
    if mode == "open" and collector not in parties:
        parties[collector] = ""
    make_homes(folder, parties)
    for name, numbers in ids.items():
        lines = [f"{n},secret-{name}-{i:05d}" for i, n in enumerate(numbers)]
        (folder / name / "customers.csv").write_text("phone,note\n" + "\n".join(lines) + "\n")
    job = folder / "job.toml"
    expires = dt.date.today() + dt.timedelta(days=30)  # noqa: DTZ011 -- a month is far from any border of days
    roles, always = MODES[mode]
    job.write_text(
        JOB.format(
            purpose="test",
            expires=expires,
            parties=roles.format(collector=collector),
            params=f"{always}\n{params}",
        )
    )
    return Insurers(folder, {name: folder / name for name in parties}, job, ids)


def phones(insurers, name, artefact, file):
    """Return the ids of one result file, in its order."""
    path = insurers.homes[name] / "results" / artefact / file
    rows = duckdb.sql(f"SELECT phone FROM read_csv('{path}', all_varchar = true)").fetchall()
    return [row[0] for row in rows]


def matched(insurers, name, artefact):
    return set(phones(insurers, name, artefact, "matched.csv"))


def lines(insurers, name, artefact):
    """Return an alignment's lines as dictionaries."""
    path = insurers.homes[name] / "results" / artefact / "alignment.parquet"
    found = duckdb.sql(f"FROM read_parquet('{path}')")
    return [dict(zip(found.columns, line, strict=True)) for line in found.fetchall()]
