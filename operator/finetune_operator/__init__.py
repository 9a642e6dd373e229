"""The operator: FineTuneJobs to Jobs, and what became of them to conditions."""

__version__ = "0.1.0"
