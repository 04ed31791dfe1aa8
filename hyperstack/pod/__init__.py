"""The domain: what a pod, a container and an image reference are. Pure: no I/O, imports nothing of ours."""
