"""Networks behind one interface (`api`): an embedded bridge today, Neutron beside it later."""
