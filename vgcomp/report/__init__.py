"""Reports for people and machines: JSON, Markdown, HTML."""
