"""Peers and edgevit in one contest: ``python -m edgevit.bench.contenders --help``.

From the outside in: ``__main__`` parses and prints, ``contest`` runs a model, ``field`` prepares who takes part
(``catalogue`` lists the peers, ``environments`` installs them), ``rounds`` takes the times, ``ranking`` compares
them and ``result`` is what is kept. Every contender is a process of its own, ``workers/serve.py``.
"""
