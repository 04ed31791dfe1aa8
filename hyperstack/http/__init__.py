"""What the HTTP APIs share: one way to call a handler, to read a body, and to answer an error.

`routing` turns a table of `Route` into aiohttp routes; a handler takes one `Call` and answers, or raises an error of
`hyperstack.pod.errors`.
"""
