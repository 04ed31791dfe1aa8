"""hyperctl: a client like any other.

    main        the command tree and the one place where an error becomes a message and an exit code
    commands/   one module per family of commands; each is imported when it is used
    client      HTTP over hyperd's unix socket, and hijacked streams
    session     an attached terminal or pipe: output, input, signals, window size, detach keys
    template    the `--format` language (a subset of Go's text/template); syntax: its parser; values: its functions
    listing     tables and lists in Docker's layout; units: sizes, durations and times as Docker writes them
    create      the options of `run` and `create`, made into Docker's request body

Start-up time is part of the product: nothing here imports at module level what only some commands need.
"""
