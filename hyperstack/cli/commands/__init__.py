"""The commands, by family; each module is imported when one of its commands is used."""
