"""Experiments as files: models x methods x decodings x benchmarks x seeds, answered into RUN folders and reported together.

`experiment_file` reads and checks a file, `cells` lists what it asks for and what is answered already, `execute` answers the
rest.
"""
