"""Intake: the credential of a request, the request itself, and the parsing of facts.

principal.py    credentials and their permissions;  tokens.py: the form of the ledger's API keys
request.py      requests to write, and their outcomes
json_gate.py    JSON that the ledger accepts or refuses
envelope.py     a fact's envelope (contract, Facts);  fact_types.py: the data of each type
places.py       wrong places of a request
"""
