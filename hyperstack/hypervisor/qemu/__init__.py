"""QEMU behind the hypervisor door: `backend.QemuHypervisor`.

    backend       finds, starts and adopts machines
    machine       one running machine: its exit, its disks, its console
    command       a machine as QEMU's command line (pure); disks: its disks
    qmp           a bounded client of QEMU's monitor
    launcher      runs the jail, jail/ is what it runs: namespaces, root, uid, capabilities, then exec of QEMU
    runtime_root  the read-only file system that every QEMU sees
    cgroups       limits and accounts on v1, v2 and hybrid hosts; also how a machine is found again
    probe         what this host can do
"""
