"""What comes in: who asks, what is asked for, and how a fact is read.

principal.py    who asks;  tokens.py: the form of our own keys
request.py      what may be asked for, and what becomes of it
json_gate.py    JSON that is taken as it is, or refused
envelope.py     a fact's envelope (contract 2);  fact_types.py: what each type says
"""
