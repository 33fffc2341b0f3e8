"""Table files: they read back, merge, and say what is wrong with them."""

import json
from pathlib import Path

import pytest

from tests.cost_models.measured_support import metadata, silu, table
from vgcomp import cost_models
from vgcomp.cost_models import MeasuredModel
from vgcomp.cost_models.calls import spell
from vgcomp.cost_models.table import COLUMNS, Table, Timing, load_table, read_table, table_path
from vgcomp.errors import UsageError
from vgcomp.targets import load_target

OWN = Path(cost_models.__file__).parent / "tables"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "cpu.csv"
    file.write_text(table(lambda work: 1e-6).text())
    return file


def test_reads_back(path):
    made, found = table(lambda work: 1e-6), read_table(path)
    assert found.rows == made.rows
    assert found.metadata == made.metadata
    assert found.text() == made.text()
    assert found.overhead.call_s == 2e-6


def test_the_users_directory_comes_first(path, monkeypatch):
    monkeypatch.setenv("VGCOMP_TABLES", str(path.parent))
    assert table_path("cpu") == path
    assert load_table("cpu").path == path


def test_newer_timings_win(path):
    call, other = spell(silu(128, 8).call), spell(silu(3, 5).call)
    newer = Table(metadata(date="2026-02-01"), {call: Timing(2e-6, 0.0, 9), other: Timing(3e-6, 0.0, 9)})
    old = read_table(path)
    merged = old.updated(newer)
    assert len(merged.rows) == len(old.rows) + 1
    assert merged.rows[call].seconds == 2e-6
    assert merged.metadata.date == "2026-02-01"


@pytest.mark.parametrize(("field", "value"), [("device", "another"), ("threads", 1), ("target", "a100")])
def test_another_devices_table_does_not_merge(path, field, value):
    with pytest.raises(UsageError, match=f"{field} is .* but .*cpu.csv is of"):
        read_table(path).updated(Table(metadata(**{field: value}), {}))


def edit(path, **changes):
    head, _, body = path.read_text().partition("\n")
    fields = {**json.loads(head.removeprefix("# ")), **changes}
    path.write_text(f"# {json.dumps({k: v for k, v in fields.items() if v is not None})}\n{body}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "vgcomp.table/0"}, "schema is 'vgcomp.table/0', not 'vgcomp.table/1'"),
        ({"threads": None}, "field 'threads' is missing"),
        ({"threads": 0}, "field 'threads' is 0"),
        ({"units": {"seconds": "ms"}}, "field 'units.seconds' is 'ms': .*'s'"),
        ({"overhead": {"call_s": -1.0}}, "field 'overhead.call_s' is -1.0"),
        ({"overhead": {"sleep_s": 1.0}}, "field 'overhead.sleep_s' is unknown"),
        ({"colour": "red"}, "field 'colour'"),
        ({"target": "a100"}, "target is 'a100', not 'cpu'"),
    ],
)
def test_a_wrong_head_is_named(path, changes, message):
    edit(path, **changes)
    with pytest.raises(UsageError, match=f"cpu.csv: {message}") as error:
        load_table("cpu", path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(path, column):
    lines = path.read_text().split("\n")
    lines[1] = lines[1].replace(column, "x" + column)
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=f"cpu.csv: column '{column}' is missing"):
        read_table(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1e-06,0", "soon,0", "line 3, column 'seconds': 'soon' is not a number"),
        ("1e-06,0", "-1,0", "line 3, column 'seconds'"),
        ("1e-06,0", "0,0", "line 3, column 'seconds': must be above 0"),
        ("1e-06,0", "nan,0", "line 3, column 'seconds'"),
        ("1e-06,0,15", "1e-06", "line 3: 4 columns, not 6"),
    ],
)
def test_a_damaged_row_is_named(path, old, new, message):
    lines = path.read_text().split("\n")
    lines[2] = lines[2].replace(old, new)
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=f"cpu.csv: {message}"):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"op,seconds\n", b"# [1]\n", b"# {\n", b"\xff\xfe\x00"])
def test_what_is_no_table_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cpu\.csv: not a table"):
        read_table(path)


def test_no_table_says_how_to_make_one(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"no measured table for 'nowhere'.*vgcomp profile"):
        load_table("nowhere")
    with pytest.raises(UsageError, match="No such file"):
        read_table(tmp_path / "none.csv")
    monkeypatch.setenv("VGCOMP_TABLES", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="VGCOMP_TABLES"):
        load_table("cpu")


@pytest.mark.parametrize("path", sorted(OWN.glob("*.csv")), ids=lambda path: path.stem)
def test_our_own_tables_are_whole(path):
    found = load_table(path.stem)
    MeasuredModel(load_target(path.stem), found).check()
    assert found.metadata.threads == load_target(path.stem).units
    assert found.overhead.call_s > 0.0
    assert path.read_text() == found.text()
