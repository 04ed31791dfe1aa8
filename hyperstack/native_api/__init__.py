"""What Docker's API lacks, under /hyperstack/v1: pods from manifests, kernels, the host's health."""

from hyperstack.native_api.routes import routes

__all__ = ["routes"]
