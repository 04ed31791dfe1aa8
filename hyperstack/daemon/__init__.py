"""hyperd: configuration, wiring of the rooms, and the process itself."""
