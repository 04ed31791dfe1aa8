"""Images: names, registries, the content store, layers to read-only disks."""
