"""Questions in, answers out: ask, ask_many, stream; decodings and sampling."""
