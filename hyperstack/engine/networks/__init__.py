"""Networks of projects, and pods on them.

    projects     made, shown, removed; containers put on them
    placement    where pods are to be, from the records alone
    service      pods plugged, rewired, unplugged on the host
    rewiring     networks of pods whose VMs run
    options      what a user may set about a driver
"""
