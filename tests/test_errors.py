"""Every class of error has its exit code."""

from vgcomp import errors


def test_exit_codes():
    codes = {
        errors.InternalError: 1,
        errors.UsageError: 2,
        errors.ModelError: 2,
        errors.CheckFailed: 3,
        errors.Infeasible: 4,
        errors.Unavailable: 5,
    }
    assert {cls: cls.exit_code for cls in codes} == codes


def test_a_bug_is_not_the_users():
    assert not issubclass(errors.InternalError, errors.VgcompError)


def test_infeasible_says_what_would_fit():
    error = errors.Infeasible("no plan fits 1.00 MB", smallest_bytes=123, culprit="conv_in")
    assert (str(error), error.smallest_bytes, error.culprit) == ("no plan fits 1.00 MB", 123, "conv_in")
