"""Who is who: projects and roles behind one interface (`api`): the local socket today, Keystone beside it later."""
