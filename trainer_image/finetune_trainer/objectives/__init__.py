"""What a job trains for: one package per value of `spec.stage`, looked up in `registry`."""
