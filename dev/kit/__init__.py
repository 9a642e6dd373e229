"""What demo, end-to-end tests and benchmarks share: the chart, FineTuneJobs, assets in S3."""
