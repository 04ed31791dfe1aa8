"""Layers' disks: read-only EROFS images, made and read without mounting anything.

    format   the on-disk format, as Linux has it
    writer   a tree of files to an image, in one pass
    data     contents of files on their way into one, with their holes
    reader   names, attributes and contents of one
"""
