# ruff: noqa: INP001 - a script, not a package
"""Make the demo's data files again: statsmodels' ``randhie``, scikit-learn's ``breast_cancer``.

Neither is a dependency of veilsum; run this where the one that is meant and duckdb are installed:
``python tools/make_demo_data.py src/veilsum/node/demo/randhie.parquet`` (or ``…/breast_cancer.parquet``).
"""

import sys
from pathlib import Path

import duckdb

ROWS = {"randhie": 20_190, "breast_cancer": 569}


def randhie(database: duckdb.DuckDBPyConnection) -> str:
    """Return what selects the data set, in its own order and names, whole numbers as small integers."""
    import statsmodels.api as sm  # type: ignore[import-not-found,import-untyped,unused-ignore]

    database.register("randhie", sm.datasets.randhie.load_pandas().data)
    return (
        "SELECT mdvis::SMALLINT AS mdvis, lncoins::DOUBLE AS lncoins, idp::TINYINT AS idp, "
        "lpi::DOUBLE AS lpi, fmde::DOUBLE AS fmde, physlm::DOUBLE AS physlm, disea::DOUBLE AS disea, "
        "hlthg::TINYINT AS hlthg, hlthf::TINYINT AS hlthf, hlthp::TINYINT AS hlthp FROM randhie"
    )


def breast_cancer(database: duckdb.DuckDBPyConnection) -> str:
    """Return what selects the data set in its own order; names have _ for spaces, the label is turned."""
    from sklearn.datasets import load_breast_cancer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names]
    arrays = {name: found.data[:, at].copy() for at, name in enumerate(names)}
    database.register("cells", arrays | {"benign": found.target})
    return f"SELECT (1 - benign)::TINYINT AS malignant, {', '.join(names)} FROM cells"  # noqa: S608 - fixed names


def main(target: Path) -> None:
    """Write the data set that the file is named after."""
    make = {"randhie": randhie, "breast_cancer": breast_cancer}[target.stem]
    with duckdb.connect() as database:
        query = make(database)
        database.execute(
            f"COPY ({query}) TO $target (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19)",
            {"target": str(target)},
        )
        written = len(database.read_parquet(str(target)))
        if written != ROWS[target.stem]:
            sys.exit(f"{target}: {written} rows; expected {ROWS[target.stem]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
