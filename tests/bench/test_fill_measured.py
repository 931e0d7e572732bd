import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docs" / "fill_measured.py"


def load(path):
    spec = importlib.util.spec_from_file_location("docs_fill_measured", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_of_a_benchmark_share_a_table(tmp_path, monkeypatch):
    fill_measured = load(FILE)
    about = {"cpu": "c", "cores": 2, "system": "s", "python": "3", "openssl": "3"}
    rest = {
        "unit": "s",
        "peer": None,
        "peer_name": None,
        "ratio": None,
        "goal": None,
        "met": None,
        "note": "",
    }

    def part(versions, **ours):
        rows = [rest | {"name": name, "ours": value} for name, value in ours.items()]
        return {"bench": "psi", "machine": about | {"versions": versions}, "rows": rows}

    parts = [part({"numpy": "2", "spu": "1"}, dh=1.0, union=2.0), part({"numpy": "2"}, rsa=3.0, dh=4.0)]
    merged = fill_measured.merge(parts)
    assert [(row["name"], row["ours"]) for row in merged["rows"]] == [
        ("dh", 4.0),
        ("union", 2.0),
        ("rsa", 3.0),
    ]
    assert merged["machine"]["versions"] == {"numpy": "2", "spu": "1"}
    with pytest.raises(ValueError, match="differ in numpy"):
        fill_measured.merge([parts[0], part({"numpy": "3"})])
    other = part({})
    other["machine"]["cpu"] = "d"
    with pytest.raises(ValueError, match="differ in cpu"):
        fill_measured.merge([parts[0], other])
    page, files = tmp_path / "measured.md", [tmp_path / "0.json", tmp_path / "1.json"]
    page.write_text("<!-- measured: psi -->\nold\n<!-- end: psi -->\n")
    for file, document in zip(files, parts, strict=True):
        file.write_text(json.dumps(document))
    monkeypatch.setattr(fill_measured, "PAGE", page)
    fill_measured.main([str(file) for file in files])
    assert [line.split(" | ")[0] for line in page.read_text().splitlines() if " | s | " in line] == [
        "| dh",
        "| union",
        "| rsa",
    ]
    assert "spu 1" in page.read_text()
