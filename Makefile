# make quickstart   install, draw the shapes data, train, evaluate on held-out shapes: a table and pictures in runs/shapes
# make test         the tests, in parallel
# make coverage     the tests, and the share of lines that they execute
# make test-onnx    the tests of ONNX files, in an environment of their own (docs/export.md)
# make docs         the documentation as a site, in runs/site
# All targets create a virtual environment in .venv (test-onnx: .venv-export) and can be repeated. They use the newest
# working Python of 3.13, 3.12 and 3.11; make PYTHON=/path/to/python quickstart uses another one.

PYTHON ?= $(shell .ci/find_python 3.13 3.12 3.11)
RUN := .venv/bin/python
SHAPES := datasets/shapes
WORKDIR := runs/shapes

.PHONY: quickstart test coverage test-onnx lint lock docs clean

quickstart: .venv/installed $(SHAPES)/records/val/index.npz
	$(RUN) train.py --config configs/shapes.py --workdir $(WORKDIR)
	$(RUN) evaluate.py --config configs/shapes.py --workdir $(WORKDIR) --pictures 8
	@echo "pictures: $(WORKDIR)/pictures, metrics: $(WORKDIR)/metrics.json"

test: .venv/installed-test
	$(RUN) -m pytest -n auto -q

coverage: .venv/installed-test
	.venv/bin/pip install -q pytest-cov
	COVERAGE_CORE=sysmon .venv/bin/python -m pytest -n auto -q --cov=fastmask_jax --cov-report=term:skip-covered

test-onnx: .venv-export/installed
	.venv-export/bin/python -m pytest -n auto -q tests/test_export.py tests/test_export_onnx.py

lint: .venv/installed-test
	.venv/bin/pip install -q ruff mypy
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

lock: .venv/bin/python  # exact versions with hashes, for Python 3.13 on Linux
	.venv/bin/pip install -q uv
	.venv/bin/uv pip compile -q requirements.txt -c constraints.txt --generate-hashes --no-annotate --python-version 3.13 \
		--python-platform x86_64-unknown-linux-gnu --custom-compile-command "make lock" -o requirements.lock

docs: .venv/bin/python
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-docs.txt -c constraints.txt
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

$(SHAPES)/records/val/index.npz: | .venv/installed
	$(RUN) prepare.py shapes --out $(SHAPES) --overwrite

.venv/bin/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt constraints.txt | .venv/bin/python
	.venv/bin/pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

.venv/installed-test: requirements-test.txt .venv/installed
	.venv/bin/pip install -q --disable-pip-version-check -r requirements-test.txt -c constraints.txt
	touch $@

.venv-export/installed: requirements.txt requirements-export.txt constraints.txt | .venv/bin/python
	.venv/bin/python -m venv .venv-export
	grep -v orbax-checkpoint constraints.txt > .venv-export/constraints.txt
	.venv-export/bin/pip install -q --disable-pip-version-check -r requirements.txt -r requirements-export.txt \
		beartype hypothesis pytest pytest-xdist -c .venv-export/constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-export .venv-ci runs $(SHAPES)
