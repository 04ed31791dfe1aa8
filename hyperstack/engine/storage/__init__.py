"""What containers' files lie on: disks of pods, named volumes, and files of the host."""
