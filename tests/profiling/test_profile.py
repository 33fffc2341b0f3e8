"""Timing ops: every op of the dialect runs, on data that suits it; what was measured survives an interrupt."""

import csv
import io

import pytest
import torch
from torch import nn

from tests.op_cases import CASES, make_case
from vgcomp import capture
from vgcomp.cli.main import main
from vgcomp.cost_models.calls import Call, spell
from vgcomp.cost_models.table import Table, Timing, read_table
from vgcomp.profiling import Device, TorchRunner, profile
from vgcomp.profiling.calls import calls_of, data_bytes
from vgcomp.profiling.overhead import measure_overhead
from vgcomp.simulate import node_work
from vgcomp.targets import load_target

CPU = load_target("cpu")


class FakeRunner:
    """Times a call as so many seconds as its text is long; stops after ``limit`` groups."""

    device = Device("a processor", 2, "none")

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.groups: list[list[Call]] = []

    def time(self, calls, repeats):
        if len(self.groups) == self.limit:
            raise KeyboardInterrupt
        self.groups.append(list(calls))
        return [Timing(len(call.arguments) + i % 2, 0.0, repeats) for i, call in enumerate(calls)]


def calls(names=None):
    return [spell(node_work(make_case(name).node).call) for name in sorted(names or CASES)]


def test_every_op_of_the_dialect_can_be_timed():
    found = calls()
    timings = TorchRunner(1).time(found, 2)
    assert len(timings) == len(found)
    assert all(0.0 < timing.seconds < 10.0 and timing.repeats == 2 for timing in timings)


def test_the_runner_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    runner = TorchRunner(before + 1)
    runner.time(calls()[:1], 1)
    assert torch.get_num_threads() == before
    assert runner.device.threads == before + 1


def test_overheads_are_seconds_of_python():
    overhead = measure_overhead(TorchRunner(1))
    assert all(0.0 <= value < 1e-2 for value in (overhead.call_s, overhead.step_s, overhead.slice_s, overhead.run_s))
    assert overhead.slice_s > 0.0
    assert overhead.weight_s > 0.0


def test_a_call_that_is_there_twice_has_the_median():
    call = calls()[0]
    table = profile([call, call], FakeRunner(), CPU)
    assert table.rows == {call: Timing(len(call.arguments) + 0.5, 0.0, 30)}
    assert (table.metadata.target, table.metadata.device, table.metadata.threads) == ("cpu", "a processor", 2)


def test_groups_fit_into_memory():
    call = Call("aten.silu.default", "['f32[128,1024,1024]']", "f32[128,1024,1024]")
    assert data_bytes(call) == 2**30
    runner = FakeRunner()
    profile([call, call, *calls()], runner, CPU)
    assert len(runner.groups) == 3


def test_an_interrupt_keeps_what_was_measured():
    many = [Call("aten.silu.default", f"['f32[{i},2]']", f"f32[{i},2]") for i in range(1, 1500)]
    kept: list[Table] = []
    with pytest.raises(KeyboardInterrupt):
        profile(many, FakeRunner(limit=2), CPU, keep=kept.append)
    assert len(kept) == 1
    assert 0 < len(kept[0].rows) < len(many)
    with pytest.raises(KeyboardInterrupt):
        profile(many, FakeRunner(limit=0), CPU, keep=kept.append)
    assert len(kept) == 1


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    capture(network, (torch.randn(2, 3, 16, 16),), name="tiny").save(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_repeated_layers_are_repeated_and_known_programs_are_not(saved):
    from vgcomp.program import Program

    program = Program.load(saved)
    found = calls_of([program, program], CPU)
    assert [call.op for call in found] == [
        "aten.convolution.default",
        "aten.silu.default",
        "aten.silu.default",
        "aten.convolution.default",
    ]


def test_the_command_makes_and_extends_a_table(saved, tmp_path, capsys):
    out = tmp_path / "cpu.csv"
    command = ["profile", saved, "--threads", "1", "--repeats", "1", "--out", str(out)]
    assert main(command) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text().partition("\n")[2])))
    assert sorted({row["op"] for row in rows}) == ["aten.convolution.default", "aten.silu.default"]
    before = len(read_table(out).rows)
    assert main([*command, "--mem", "70%", "--mem", "1KB"]) == 0
    assert len(read_table(out).rows) > before
    assert "ops measured" in capsys.readouterr().out


def test_a_table_is_imported_and_used(saved, tmp_path, capsys, monkeypatch):
    there, here = tmp_path / "there.csv", tmp_path / "tables"
    here.mkdir()
    assert main(["profile", saved, "--threads", "1", "--repeats", "1", "--out", str(there)]) == 0
    monkeypatch.setenv("VGCOMP_TABLES", str(here))
    assert main(["profile", "--import", str(there)]) == 0
    assert read_table(here / "cpu.csv").rows == read_table(there).rows
    report = tmp_path / "report.json"
    options = ["--target", "cpu", "--cost-model", "measured", "--report", str(report), "--dry-run"]
    assert main(["optimize", saved, *options]) == 0
    assert "measured" in report.read_text()
    assert "% measured" in capsys.readouterr().out


def refused(capsys, arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_bad_requests_are_one_line(saved, tmp_path, capsys):
    assert "not both" in refused(capsys, ["profile"])
    assert "not both" in refused(capsys, ["profile", saved, "--import", "x.csv"])
    assert "1% to 100%" in refused(capsys, ["profile", saved, "--mem", "0%"])
    assert "does not exist" in refused(capsys, ["profile", saved, "--out", str(tmp_path / "none" / "x.csv")])
    assert "x.csv: No such file" in refused(capsys, ["profile", "--import", str(tmp_path / "x.csv")])
    assert main(["profile", saved, "--target", "a100", "--out", str(tmp_path / "a.csv")]) == 5
    assert "--import" in capsys.readouterr().err
    assert "no measured table for 'a100'" in refused(capsys, ["optimize", saved, "--cost-model", "measured"])


def test_a_bad_table_is_not_imported(saved, tmp_path, capsys):
    good, bad, out = tmp_path / "good.csv", tmp_path / "bad.csv", tmp_path / "cpu.csv"
    assert main(["profile", saved, "--threads", "1", "--repeats", "1", "--out", str(good)]) == 0
    text = good.read_text()
    for old, new, said in (
        ('"target": "cpu"', '"target": "a100"', "target is 'a100'"),
        ("aten.silu.default", "aten.silly.default", "column 'op': 'aten.silly.default'"),
        ('"seconds": "s"', '"seconds": "ms"', "units.seconds"),
        (",repeats", ",times", "column 'repeats'"),
    ):
        bad.write_text(text.replace(old, new))
        assert f"bad.csv: {said}" in refused(capsys, ["profile", "--import", str(bad), "--out", str(out)]).replace(
            "field '", ""
        ).replace("aten.silly.default: column", "column")
        assert not out.exists()
    out.write_text(text)
    bad.write_text(text.replace('"threads": 1', '"threads": 4'))
    assert "threads is 4, but" in refused(capsys, ["profile", "--import", str(bad), "--out", str(out)])
    assert out.read_text() == text
