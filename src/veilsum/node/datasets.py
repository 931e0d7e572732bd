"""This party's own data sets, opened as its file declares them."""

from veilsum.node import config
from veilsum.node.config import PartyConfig
from veilsum.node.files import private_folder
from veilsum.store.id_table import DataReport
from veilsum.store.sources import Source, open_source


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


def in_words(report: DataReport) -> str:
    """Return one sentence about a data set, for its owner."""
    odd = {"without an id": report.nulls, "malformed": report.malformed, "repeated": report.duplicates}
    rest = "".join(f", {count} {word}" for word, count in odd.items() if count)
    return f"{report.rows} rows, {report.ids} different ids{rest}; {report.form}"
