"""Programs for those who work on the project: `python -m tools.…`.

demo.py             `make demo`: one photograph by the base model, SGA and classical codecs
bench.py            `make bench`: speed and memory, beside a baseline implementation
recipe.py           training of the models that ship
export.py           a copy of a model without the state of its optimisers
export_integers.py  what decoding without TensorFlow needs of a model
paste_tables.py     `make tables`: tables of results/ in the documents
check_layout.py     `make lint`: the layout that CONTRIBUTING.md describes
"""
