"""Docker's Engine API 1.55 as its published reference has it, written down anew: every operation, what it takes, and
what its answers look like. The shape test and the fuzz test read it.

A field of an answer is there unless it is marked otherwise, and there are no others: the reference leaves most of them
optional, but clients count on them. `HyperStack` is the one field that we add.
"""
