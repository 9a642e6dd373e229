"""The cluster that tests and demo run on. `python -m dev.localcluster --help`, or from Python:

from dev.localcluster import connect
cluster = connect()      # a named context, kind, or our own
cluster.ensure_nodes()
"""

from dev.localcluster.cluster import Cluster, connect
from dev.localcluster.errors import UnsupportedError
from dev.localcluster.local import LocalCluster

__all__ = ["Cluster", "LocalCluster", "UnsupportedError", "connect"]
