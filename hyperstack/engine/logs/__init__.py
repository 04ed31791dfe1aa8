"""Containers' output, kept and read again.

    drivers      Docker's: how much is kept, and whether it can be read
    file         every byte once; segments: the files that it is in
    reader       chunks or lines, from the start or the end, and as they come
"""
