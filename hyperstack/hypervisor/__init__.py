"""Hypervisors behind one small interface (`api`): QEMU today, others beside it later."""
