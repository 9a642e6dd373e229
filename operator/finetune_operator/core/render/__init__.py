"""Children as dictionaries: no decision is taken here, only how a decision is written down for Kubernetes."""
