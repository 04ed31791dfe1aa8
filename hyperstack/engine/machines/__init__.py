"""The VMs of pods.

    launch          what a machine is made with, and what its guest is told
    start_queue     when a start has its turn
    starting        the machine comes up: one that stood ready, a clone, or one that boots
    templates       machines that others are clones of; rehearsal: what a parent of forks has done before
    pool            machines that stand ready
    greeting        the first words with a guest; liveness: whether it still answers
    sandboxes       a machine from its start to its end
    growth          room for larger limits while it runs
    seating         disks that come and go while it runs; volume_sharing: those that other machines have
    linking         what its containers are told of others
    tray            large archives past the stream; cpusets, uids: of the host
"""
