"""The lives of containers, each under its pod's lock.

    supervisor    all that may be asked: the only place that changes a container's state
    beginnings    a start
    endings       how a process is made to end, what is done when it has, and removal
    common        what these share: records, locks, runs, and who waits
    runs          a main process, its output on its way to the log; attachments: clients on its streams
    exits         ends of other processes; waiters: those who wait for a container's
    restarts      policies; restarting: containers that wait for theirs
    health        health checks
    joining       containers in another one's pod
"""
