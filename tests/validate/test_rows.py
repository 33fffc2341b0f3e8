"""The rows that are quick to make: operation counts, and the phone's."""

import pytest

from vgcomp.validate import Context, flops
from vgcomp.validate.phone import phone_rows


def test_the_svd_unet_has_the_published_operations(monkeypatch):
    monkeypatch.setattr(flops, "_FIGURES", flops._FIGURES[1:])
    (row,) = flops.flops_rows(Context())
    assert row.figure == 8.6e12
    assert abs(row.error) < 0.02


def test_the_phone():
    rows = {row.name: row for row in phone_rows(Context("a18pro"))}
    assert {row.figure for row in rows.values()} == {1.02, 23.1, 4.1, 0.21, 0.33}
    for row in rows.values():
        if row.role == "calibrated":
            assert abs(row.error) < 0.05, row.name
    assert rows["SnapGen-V denoiser, one step"].predicted == pytest.approx(1.02, rel=0.5)
    full, separable = rows["Temporal decoder, 17 frames"], rows["Temporal decoder, separable, 17 frames"]
    assert full.predicted > 50 * separable.predicted, "the 3-D convolutions leave the CPU"


def test_others_are_not_asked():
    assert not list(phone_rows(Context("a100")))
    assert not list(flops.flops_rows(Context("a18pro")))
