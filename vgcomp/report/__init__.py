"""Reports for people and machines: JSON, Markdown, HTML."""

from vgcomp.report.write import check_report_path, report_text, write_report

__all__ = ["check_report_path", "report_text", "write_report"]
