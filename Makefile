# Every target installs its requirements, once.
VENV = .venv
PYTHON = $(VENV)/bin/python

help:
	@echo "make demo     base model, SGA and classical codecs on a photograph; needs only Python 3.7"
	@echo "make test     all tests except the longest"
	@echo "make parity   the longest: the reference on every input and seed, the ranking of the methods"
	@echo "make bench    speed and memory against a baseline implementation; BENCH=iterations runs one part"
	@echo "make tables   pastes the tables of results/ into README.md and docs/"
	@echo "make study-setup  packages for studies and figures (python -m study.…)"
	@echo "make horovod  Horovod, for training with several processes (horovodrun)"
	@echo "make lint     style and layout of the code"

setup:
	@tools/venv.sh $(VENV) requirements.txt

study-setup:
	@tools/venv.sh $(VENV) requirements-study.txt

setup-dev:
	@tools/venv.sh $(VENV) requirements-dev.txt

# Horovod is compiled against the installed TensorFlow, which takes cmake and a C++ compiler.
horovod: setup
	@$(PYTHON) -c "import horovod.tensorflow" 2>/dev/null || \
	    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 \
	    HOROVOD_WITHOUT_MXNET=1 $(PYTHON) -m pip install -q -q --disable-pip-version-check \
	    --no-build-isolation -r requirements-horovod.txt

demo: setup
	@$(PYTHON) -m tools.demo

# Two processes with one thread each are faster than one with two: the tests' graphs are small.
test: setup-dev
	@TF_NUM_INTRAOP_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal -m "not parity"

parity: setup-dev
	@TF_NUM_INTRAOP_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal tests/test_parity.py tests/test_estimates.py tests/test_shipped_models.py tests/test_files.py

BENCH =
bench: setup
	@$(PYTHON) -m tools.bench $(BENCH)

tables: setup
	@$(PYTHON) -m tools.paste_tables

lint: setup-dev
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m tools.check_layout

.PHONY: help setup study-setup setup-dev horovod demo test parity bench tables lint
