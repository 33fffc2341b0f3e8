"""Published figures beside what is predicted: what was fitted, what was left out of the fit, what was never in it.

A *provider* gives rows for one kind of figure; :data:`~vgcomp.validate.providers.PROVIDERS` lists them.
"""

from vgcomp.validate.row import Context, Report, Role, Row
from vgcomp.validate.run import check_report_path, check_target, validate

__all__ = ["Context", "Report", "Role", "Row", "check_report_path", "check_target", "validate"]
