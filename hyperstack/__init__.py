"""HyperStack: Docker images as HyperVM pods, for strangers, on bare metal."""

__version__ = "0.1.0"
