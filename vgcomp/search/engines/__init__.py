"""Search strategies by name. Each asks for generations and is told their evaluations; see ``problem.Engine``."""
