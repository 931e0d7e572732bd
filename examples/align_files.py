"""Two organisations find the customers they share: all roles in this process, with the real protocol.

Run it anywhere: ``python examples/align_files.py``. It writes two small files and the results into a folder
of its own, which it removes.
"""

import csv
import tempfile
from pathlib import Path

import veilsum

CUSTOMERS = {
    "insurer-a": [("phone", "plan"), ("+1 415-555-0132", "gold"), ("(212) 555-0117", "basic"), ("", "basic")],
    "insurer-b": [("phone", "smoker"), ("+14155550132", "no"), ("305.555.0146", "yes")],
}


def main() -> None:
    """Write the files, align them, and show what each party has then."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {party: folder / f"{party}.csv" for party in CUSTOMERS}
        for party, rows in CUSTOMERS.items():
            with files[party].open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)

        # the same number is written in two ways: both are compared in E.164 form
        aligned = veilsum.align(files, ids="phone", kind="phone", region="US", results=folder / "results")

        print(f"{aligned.matched} customer in common")
        for party, summary in aligned.summaries.items():
            print(f"\n{party} keeps this file:")
            print((aligned.folders[party] / "matched.csv").read_text(encoding="utf-8").strip())
            print("and was told:", *[f"  {f.name}: {f.value} {f.unit}" for f in summary.facts], sep="\n")
        print("\nwho has learnt what:")
        for leak in aligned.summaries["insurer-a"].leaks:
            print(f"  {leak.who}: {leak.what}")


if __name__ == "__main__":
    main()
