import re
import xml.etree.ElementTree as ET
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.errors import ConfigError
from veilsum.jobs import Leak
from veilsum.node import charts, report
from veilsum.node.report import RecordLine, render
from veilsum.node.summary import Fact, StepTime, Summary

ALICE = Summary(
    artefact="align-3f2a",
    kind="hidden_psi",
    mode="open, X25519",
    adversary="Withstands curious parties that follow the protocol.",
    purpose="joint pricing study",
    run="5f0c2a91d3e84b6f8a7712cc90be41d7",
    attempt=1,
    party="insurer-a",
    roles=("member",),
    parties={"member": ("insurer-a", "insurer-b"), "collector": ("referee",)},
    started=1772359205.4,
    seconds=1.84,
    steps=(
        StepTime(1, "masked ids", 0.41, 192_320, 192_512),
        StepTime(2, "compare", 0.25, 0, 0),
        StepTime(2, "compare", 0.5, 100, 0),
    ),
    facts=(
        Fact("own ids", 6000, "ids"),
        Fact("ids of insurer-b", 5000, "ids"),
        Fact("matches", 3600, "ids"),
        Fact("suite", "X25519"),
    ),
    leaks=(
        Leak("alignment", "member", "which of its own ids both hold"),
        Leak("modelling", "collector", "nothing"),
    ),
    warnings=("12 rows have no id.",),
    files={"matches": "matches.parquet"},
    algorithms={"kernel": "ifma", "ids": {"kind": "phone", "columns": ["phone", "name"]}, "exact": True},
)
BOB = msgspec.structs.replace(
    ALICE,
    party="insurer-b",
    roles=("member",),
    seconds=2.5,
    steps=(StepTime(1, "masked ids", 0.52, 192_512, 192_320),),
    facts=(),
    warnings=(),
    files={},
    algorithms={"kernel": "portable", "ids": {"kind": "phone"}},
)
RECORD = RecordLine(
    party="insurer-a",
    path="results/align-3f2a/record.vsr",
    digest="9b" * 32,
    jobs=3,
    command="veilsum record verify results/align-3f2a/record.vsr",
)


def parse(page: str) -> ET.Element:
    return ET.fromstring(page)


def words(page: str) -> str:
    for style in (root := parse(page)).iter():
        if style.tag.endswith("style"):
            style.text = ""
    return " ".join(" ".join(root.itertext()).split())


def test_a_report_of_one_party_tells_the_whole_run():
    text = words(render([ALICE], title="The run"))
    for told in (
        "The run",
        "Purpose: joint pricing study",
        "hidden_psi · open, X25519",
        "align-3f2a",
        ALICE.run,
        "2026-03-01 10:00:05 UTC",
        "member insurer-a, insurer-b collector referee",
        "own ids 6,000 ids",
        "suite X25519",
        "member insurer-a, insurer-b which of its own ids both hold",
        ALICE.adversary,
        "12 rows have no id.",
        "matches.parquet",
        "ids.columns phone, name",
        "exact true",
        "sent / received here 192 kB / 193 kB",
        "warning 1",
        "veilsum record verify record.vsr",
    ):
        assert told in text
    assert "attempt" not in text


def test_steps_of_the_same_number_are_added_up_and_drawn_as_they_are_listed():
    page = render([ALICE], title="t")
    assert "2 compare 750 ms 100 B 0 B" in words(page)
    assert (
        charts.bars(
            "Seconds in each step", ["1 · masked ids", "2 · compare"], {"insurer-a": [0.41, 0.75]}, unit="s"
        )
        in page
    )


def test_several_parties_of_a_run_are_told_together():
    page = render([ALICE, BOB], title="t")
    text = words(page)
    assert text.count(ALICE.adversary) == 1
    assert text.count("which of its own ids both hold") == 1
    assert "organisations 3" in text
    assert "from start to result 2.5 s" in text
    assert "sent, all parties 385 kB" in text
    assert "kernel insurer-a ifma insurer-b portable" in text
    assert "ids.kind phone" in text
    assert "insurer-b member Nothing." in text
    assert "1 masked ids 410 ms 192 kB 193 kB 520 ms 193 kB 192 kB" in text


def test_several_runs_are_chapters_with_a_contents_list():
    later = msgspec.structs.replace(
        ALICE, artefact="stats-9c1e", run="00" * 16, attempt=2, purpose="averages"
    )
    root = parse(render([ALICE, later, BOB], title="t"))
    chapters = root.findall(".//article")
    assert [chapter.get("id") for chapter in chapters] == ["run-0", "run-1"]
    assert "insurer-a, insurer-b" in "".join(chapters[0].itertext())
    assert "attempt 2" in "".join(chapters[1].itertext())
    assert [link.get("href") for link in root.iter("a")] == ["#run-0", "#run-1"]


def test_the_picture_of_two_sets_needs_three_sizes_that_fit():
    titled = "Whom both know"
    assert titled in render([BOB, ALICE], title="t")
    for facts in (
        ALICE.facts[:2],
        (*ALICE.facts, Fact("ids of referee", 3, "ids")),
        (*ALICE.facts[:2], Fact("matches", 5001, "ids")),
        (Fact("own ids", 3, "ids"), Fact("matches", 3, "ids")),
    ):
        assert titled not in render([msgspec.structs.replace(ALICE, facts=facts)], title="t")


def test_a_collector_without_ids_that_learns_the_sizes_draws_them_too():
    facts = (Fact("ids of insurer-a", 6), Fact("ids of insurer-b", 5), Fact("matches", 4))
    page = render([msgspec.structs.replace(ALICE, party="referee", facts=facts)], title="t")
    assert charts.overlap("Whom both know", ("insurer-a", 6), ("insurer-b", 5), 4, unit="ids") in page


def test_records_are_shown_with_their_verdict_and_the_command_that_repeats_it():
    bad = msgspec.structs.replace(RECORD, party="insurer-b", jobs=1, fault="a signature does not match")
    text = words(render([ALICE], title="t", records=[RECORD, bad]))
    assert "3 jobs, chain OK" in text
    assert "1 job; does not verify: a signature does not match" in text
    assert text.count("chain OK") == 1
    assert RECORD.command in text
    assert RECORD.digest in text


def test_a_quiet_run_has_no_empty_sections():
    quiet = msgspec.structs.replace(ALICE, steps=(), facts=(), warnings=(), files={}, algorithms={})
    text = words(render([quiet], title="t"))
    for heading in ("Please look at this", "Time and traffic", "Files", "Algorithms"):
        assert heading not in text


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ConfigError) as caught:
        render([], title="t")
    assert caught.value.remedy


def test_the_page_loads_runs_and_refers_to_nothing():
    page = render([ALICE, BOB], title="t", records=[RECORD])
    root = parse(page)
    assert not re.search(
        r"https?:|//\w|url\(|@import|@font-face", page.replace("http://www.w3.org/2000/svg", "")
    )
    allowed = {"src", "srcset", "href", "action", "data", "style"}
    assert not [key for e in root.iter() for key in e.attrib if key in allowed or key.startswith("on")]
    assert not {e.tag for e in root.iter()} & {"script", "link", "img", "iframe", "object", "base", "form"}
    policy = next(e for e in root.iter("meta") if e.get("http-equiv") == "Content-Security-Policy").get(
        "content", ""
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_the_same_summaries_give_the_same_page():
    pages = {render([ALICE, BOB], title="t", records=[RECORD]) for _ in range(2)}
    assert len(pages) == 1


texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</style><b>",
            '" onload="x',
            "]]>",
            "<!--",
            "&amp;",
            "'><svg onload=x>",
            "\u202e",
        ]
    ),
)
TAGS = {e.tag for e in parse(render([ALICE, BOB], title="t", records=[RECORD])).iter()} | {"nav", "ol"}


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{f.name: texts for f in msgspec.structs.fields(kind) if f.type is str})


@given(
    texts,
    strategy(RecordLine),
    st.fixed_dictionaries(
        dict.fromkeys(("artefact", "kind", "mode", "adversary", "purpose", "run", "party"), texts)
        | {
            "roles": st.lists(texts, max_size=2).map(tuple),
            "parties": st.dictionaries(texts, st.lists(texts, max_size=2).map(tuple), max_size=2),
            "facts": st.lists(strategy(Fact), max_size=3).map(tuple),
            "leaks": st.lists(strategy(Leak), max_size=3).map(tuple),
            "steps": st.lists(strategy(StepTime), max_size=2).map(tuple),
            "warnings": st.lists(texts, max_size=2).map(tuple),
            "files": st.dictionaries(texts, texts, max_size=2),
            "algorithms": st.dictionaries(texts, st.one_of(texts, st.lists(texts, max_size=2)), max_size=2),
        }
    ),
)
@settings(max_examples=50)
def test_any_text_in_any_field_stays_text(title, line, fields):
    page = render([msgspec.structs.replace(ALICE, **fields)], title=title, records=[line])
    root = parse(page)
    assert "<script" not in page.lower()
    assert {e.tag for e in root.iter()} <= TAGS
    assert not [key for e in root.iter() for key in e.attrib if key.startswith("on")]
    shown = "".join(root.itertext()).replace("\r", "\n")
    for text in (
        title,
        fields["purpose"],
        fields["adversary"],
        *fields["warnings"],
        *fields["files"].values(),
    ):
        assert charts._UNSAFE.sub("\ufffd", text) in shown


def test_names_for_the_picture_are_those_that_the_report_looks_for():
    assert {fact.name for fact in ALICE.facts} >= {report.OWN, report.OTHER + "insurer-b", report.SHARED[0]}


def test_the_picture_says_who_alone_was_told():
    facts = (Fact("ids of insurer-a", 6), Fact("ids of insurer-b", 5), Fact("matches", 4))
    one = msgspec.structs.replace(ALICE, facts=facts)
    other = msgspec.structs.replace(BOB, facts=facts[:2])
    title = f"Whom both know, told to {one.party} alone"
    drawn = charts.overlap(title, ("insurer-a", 6), ("insurer-b", 5), 4, unit="ids")
    assert drawn in render([other, one], title="t")
    both = (*facts[:2], Fact("ids in common", 4))
    page = render([msgspec.structs.replace(view, facts=both) for view in (one, other)], title="t")
    assert "told to" not in page
    assert charts.overlap("Whom both know", ("insurer-a", 6), ("insurer-b", 5), 4, unit="ids") in page
