"""What the operator and the trainer agree on: the job file, exit codes, records, manifests and names.

Imported by both sides, imports neither. A change here is a change of the contract: see `CONTRACT_VERSION` and the
golden files in tests/contract/.
"""

CONTRACT_VERSION = 1
"""Raised when a reader of the previous version could misread a file. Until then, fields may be added with a default."""
