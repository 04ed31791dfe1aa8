"""Dockerfiles and .dockerignore files as text: parsed, bounded and expanded, without a look at any file or image.

    source        directives, continued lines, here-documents: text to statements
    parsing       a statement to a typed instruction; instructions has the types, arguments what follows the word
    stages        a whole Dockerfile: its stages, and which of them a target needs
    words         quotes, escapes and variables within an argument
    patterns      what .dockerignore leaves out, and which names a wildcard means
"""
