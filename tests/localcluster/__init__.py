"""The cluster that tests and demo run on. `python -m tests.localcluster --help`, or from Python:

from tests.localcluster import connect
cluster = connect()      # a named context, kind, or our own
cluster.ensure_nodes()
"""

from tests.localcluster.cluster import Cluster, UnsupportedError, connect
from tests.localcluster.local import LocalCluster

__all__ = ["Cluster", "LocalCluster", "UnsupportedError", "connect"]
