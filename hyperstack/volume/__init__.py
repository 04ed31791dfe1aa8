"""Volumes behind one interface (`api`): local disks today, Cinder beside it later."""
