"""The advisor behind `bench size`: a pool size, timeouts and settings for a user's own numbers.

`question` checks what was typed, with the units of `quantities`; `holds` is how long requests hold
a connection and `sources` where that is known from; `hops` is what closes idle connections.
`pools` sizes, `timeouts` follow, `clients` writes both as settings to paste, `defaults` says what a
client does untold, `page` is both as docs/clients.md; `advice` puts the
answer together and `show` prints it. Nothing here sends load.
"""
