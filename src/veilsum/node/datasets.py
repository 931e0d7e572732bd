"""This party's own data sets and models, opened as its file declares them."""

from pathlib import Path

from veilsum.errors import ConfigError
from veilsum.jobs import Job
from veilsum.node import config
from veilsum.node.config import PartyConfig
from veilsum.node.files import private_folder
from veilsum.node.toml import Place, nearest
from veilsum.parties import PartyId
from veilsum.store.features import ColumnReport, Features, open_features
from veilsum.store.id_table import DataReport
from veilsum.store.sources import Source, open_source

MODEL = "model"
"""Under this name a job's ``[inputs]`` name the model that its modeller brings."""
MODEL_FILE = "model.vsm"
"""A trained model in a result folder."""


def data_set(job: Job, party: PartyId) -> str:
    """Return the name of the data set that a party brings into a job.

    Raises:
        ConfigError: the job names none.
    """
    if party not in job.data:
        raise ConfigError(
            f"{party} brings data into this job, and [data] does not say which",
            remedy=f'add {party} = "NAME" to [data] of the job; NAME as in party.toml',
        )
    return job.data[party]


def open_data_set(party: PartyConfig, name: str, *, memory_mb: int = 512, threads: int = 2) -> Source:
    """Open a data set of this party by name; close it after use.

    Raises:
        ConfigError: the party has no such data set, or its declaration or file cannot be used.
        DataError: the content is not what its declaration says.
    """
    schema = config.id_schema(party, name)
    private_folder(party.state)
    return open_source(
        party.data[name].source,
        schema,
        base=party.home,
        spill=party.spill,
        memory_mb=memory_mb,
        threads=threads,
    )


def check_data_set(party: PartyConfig, name: str) -> DataReport | ColumnReport:
    """Read a data set of this party once and say what it is: its ids, or without ids its columns.

    Raises:
        ConfigError, DataError: it cannot be used.
    """
    if config.declared(party, name).ids:
        with open_data_set(party, name) as source:
            return source.check()
    with open_columns(party, name) as columns:
        return columns.check()


def open_columns(party: PartyConfig, name: str, *, memory_mb: int = 512, threads: int = 2) -> Features:
    """Open a data set of this party for its columns of numbers; it needs no ids. Close it after use.

    Raises:
        ConfigError: the party has no such data set, or its file cannot be used.
        DataError: the content is not what its name says.
    """
    declared = config.declared(party, name)
    private_folder(party.state)
    return open_features(
        declared.source, base=party.home, spill=party.spill, memory_mb=memory_mb, threads=threads
    )


def model_file(party: PartyConfig, name: str) -> Path:
    """Return where a model of this party lies: under [models] of its file, or in its own results.

    Raises:
        ConfigError: there is no such model.
    """
    if name in party.models:
        return party.home / party.models[name].file
    path = party.results / name / MODEL_FILE
    if "/" not in name and path.exists():
        return path
    trained = (found.parent.name for found in party.results.glob(f"*/{MODEL_FILE}"))
    raise (
        Place(party.home / "party.toml")
        .inner("models")
        .error(f"{party.name} has no model {name!r}", nearest(name, [*party.models, *trained]))
    )


def in_words(report: DataReport | ColumnReport) -> str:
    """Return one sentence about a data set, for its owner."""
    if isinstance(report, ColumnReport):
        missing = sum(report.numeric.values())
        rest = f", {len(report.other)} other" if report.other else ""
        rest += f"; {missing} values are missing" if missing else ""
        return f"{report.rows} rows, no ids declared; {len(report.numeric)} columns of numbers{rest}"
    odd = {"without an id": report.nulls, "malformed": report.malformed, "repeated": report.duplicates}
    rest = "".join(f", {count} {word}" for word, count in odd.items() if count)
    return f"{report.rows} rows, {report.ids} different ids{rest}; {report.form}"
