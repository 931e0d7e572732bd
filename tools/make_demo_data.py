# ruff: noqa: INP001 - a script, not a package
"""Make the demo's data file again: statsmodels' ``randhie`` as small Parquet.

statsmodels is no dependency of veilsum; run this where it and duckdb are installed:
``python tools/make_demo_data.py src/veilsum/node/demo/randhie.parquet``.
"""

import sys
from pathlib import Path

import duckdb
import statsmodels.api as sm  # type: ignore[import-not-found,import-untyped,unused-ignore]

ROWS = 20_190


def main(target: Path) -> None:
    """Write the data set, in its own order and with its own names, whole numbers as small integers."""
    frame = sm.datasets.randhie.load_pandas().data
    with duckdb.connect() as database:
        database.register("randhie", frame)
        database.execute(
            "COPY (SELECT mdvis::SMALLINT AS mdvis, lncoins::DOUBLE AS lncoins, idp::TINYINT AS idp, "
            "lpi::DOUBLE AS lpi, fmde::DOUBLE AS fmde, physlm::DOUBLE AS physlm, disea::DOUBLE AS disea, "
            "hlthg::TINYINT AS hlthg, hlthf::TINYINT AS hlthf, hlthp::TINYINT AS hlthp FROM randhie) "
            "TO $target (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19)",
            {"target": str(target)},
        )
        written = database.read_parquet(str(target))
        if len(written) != ROWS or written.columns != list(frame.columns):
            sys.exit(f"{target}: {len(written)} rows of {written.columns}; expected {ROWS} of {list(frame)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
