"""The challenge "Smallest student": packed files of strangers are scored, and none of their code.

``python make.py score FILE`` scores a file. An entry is numbers with names and shapes
(:mod:`distill_lib.compress.packing`); which network they belong to is read from these
(:mod:`challenge.networks`), and what is none of a short list of small networks is refused.
"""
