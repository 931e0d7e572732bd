import stat
from itertools import pairwise

import duckdb
import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.data.ids import IdSchema, normalise
from veilsum.errors import ConfigError, StoreError
from veilsum.node import demo_data
from veilsum.node.demo_data import AREAS, HEALTH, PLAN, ROWS, write_demo


def rows_of(path):
    how = "read_parquet" if path.suffix == ".parquet" else "read_csv"
    options = "" if path.suffix == ".parquet" else ", types = {'phone': 'VARCHAR'}"
    with duckdb.connect() as database:
        return database.execute(f"SELECT * FROM {how}($path{options})", {"path": str(path)}).fetchall()


def e164(text):
    try:
        number = phonenumbers.parse(text, "US")
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo"), rows=(800, 500), overlap=0.6)


@pytest.fixture(scope="module")
def original():
    source = demo_data.resources.files("veilsum.node").joinpath("demo/randhie.parquet")
    with duckdb.connect() as database:
        return database.read_parquet(str(source)).fetchall()


def test_the_data_set_is_the_published_one(original):
    assert len(original) == ROWS
    sums = [sum(column) for column in zip(*original, strict=True)]
    assert sums[0] == 57_752
    means = [total / ROWS for total in sums]
    published = (
        2.860426,
        1.774071,
        0.259980,
        4.707894,
        4.029524,
        0.123500,
        11.244492,
        0.362011,
        0.077266,
        0.014958,
    )
    assert means == pytest.approx(published, abs=5e-7)


def test_the_counts_are_what_the_files_hold(demo):
    for file, size in ((demo.insurer_a, 800), (demo.insurer_b, 500)):
        ids = [row[0] for row in rows_of(file.path)]
        valid = [number for number in map(e164, filter(None, ids)) if number]
        assert len(valid) == len(set(valid)) == file.usable == size
        assert ids.count(None) == file.nulls > 0
        assert file.malformed == len(ids) - len(valid) - file.nulls > 0
        assert file.rows == len(ids)


def test_the_matches_are_those_of_the_normalised_ids(demo):
    left, right = (
        {number for row in rows_of(file.path) if row[0] and (number := e164(row[0]))}
        for file in (demo.insurer_a, demo.insurer_b)
    )
    assert left & right == demo.matches
    assert len(demo.matches) == 300


def test_the_ids_of_a_run_tell_the_same_truth(demo):
    schema = IdSchema(columns=("phone",), kind="phone", region="US")
    left, right = (
        [normal for row in rows_of(file.path) if (normal := normalise(row[0], schema))]
        for file in (demo.insurer_a, demo.insurer_b)
    )
    assert (len(left), len(right)) == (demo.insurer_a.usable, demo.insurer_b.usable)
    assert {number.decode() for number in set(left) & set(right)} == demo.matches


def test_each_party_writes_numbers_its_own_way(demo):
    for file, style in (
        (demo.insurer_a, phonenumbers.PhoneNumberFormat.INTERNATIONAL),
        (demo.insurer_b, phonenumbers.PhoneNumberFormat.NATIONAL),
    ):
        for text, *_ in rows_of(file.path):
            if text and e164(text):
                assert phonenumbers.format_number(phonenumbers.parse(text, "US"), style) == text


def test_every_number_that_can_be_made_is_valid_and_set_aside_for_fiction():
    assert len(AREAS) * 100 >= ROWS
    assert len(set(AREAS)) == len(AREAS)
    for area in AREAS:
        assert e164(f"({area}) 555-0100") == f"+1{area}5550100"
        assert e164(f"+1 {area}-555-0199") == f"+1{area}5550199"


def test_a_matched_customer_is_one_real_row_divided_between_the_parties(demo, original):
    real = set(original)
    left, right = (
        {number: row[1:] for row in rows_of(file.path) if row[0] and (number := e164(row[0]))}
        for file in (demo.insurer_a, demo.insurer_b)
    )
    assert all(left[number] + right[number] in real for number in demo.matches)
    assert demo.insurer_a.columns == ("phone", *PLAN)
    assert demo.insurer_b.columns == ("phone", *HEALTH)


def test_the_order_of_one_file_says_nothing_about_the_other(demo):
    left, right = (
        [number for row in rows_of(file.path) if row[0] and (number := e164(row[0])) in demo.matches]
        for file in (demo.insurer_a, demo.insurer_b)
    )
    place = {number: index for index, number in enumerate(right)}
    kept = sum(place[one] < place[other] for one, other in pairwise(left))
    assert 100 < kept < 200  # half of 299 neighbours, give or take five standard deviations


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = (
        write_demo(tmp_path / name, rows=200, seed=seed) for name, seed in (("1", 7), ("2", 7), ("3", 8))
    )
    for a, b, c in (
        (first.insurer_a, again.insurer_a, other.insurer_a),
        (first.insurer_b, again.insurer_b, other.insurer_b),
    ):
        assert a.path.read_bytes() == b.path.read_bytes() != c.path.read_bytes()
    assert first.matches == again.matches != other.matches


def test_all_rows_are_shared_out_with_an_overlap(tmp_path):
    demo = write_demo(tmp_path, rows=None)
    union = demo.insurer_a.usable + demo.insurer_b.usable - len(demo.matches)
    assert ROWS - 60 < union < ROWS
    assert len(demo.matches) == round(0.6 * demo.insurer_a.usable)


def test_only_the_owner_can_read_and_nothing_shows_the_matches(demo):
    for file in (demo.insurer_a, demo.insurer_b):
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert not any(number in repr(demo) for number in demo.matches)
    files = {path.name for path in demo.insurer_a.path.parent.parent.rglob("*") if path.is_file()}
    assert files == {"customers.parquet", "customers.csv"}


@given(
    st.tuples(st.integers(-5, 30_000), st.integers(-5, 30_000)).filter(
        lambda s: min(s) < 1 or sum(s) > 33_000
    ),
    st.floats(0, 0.3),
)
@settings(max_examples=25)
def test_sizes_that_the_data_cannot_give_are_refused(sizes, overlap):
    with pytest.raises(ConfigError) as caught:
        write_demo(demo_data.Path("/nowhere"), rows=sizes, overlap=overlap)
    assert "rows a party" in caught.value.remedy


@pytest.mark.parametrize("overlap", [-0.1, 1.5, 2])
def test_an_overlap_is_a_part(overlap, tmp_path):
    with pytest.raises(ConfigError, match="overlap"):
        write_demo(tmp_path, rows=None, overlap=overlap)


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "insurer-a").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        write_demo(tmp_path, rows=10)
    assert caught.value.remedy


def test_a_file_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "insurer-b" / "customers.csv").mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        write_demo(tmp_path, rows=10)
    assert "customers.csv" in caught.value.message
