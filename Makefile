# make demo   train, export and score phantoms; leaves everything in demo/
# make test   the test suite, offline
# make check  lint, types, import contracts and tests
# make bench  speed of the encoders, side by side
# TORCH=cuda  with any of them: the CUDA build of torch and onnxruntime-gpu
# PYTHON=…    the interpreter to start from, 3.11 to 3.14

SEED ?= 0
PY := .venv/bin/python
export TORCH PYTHON

.PHONY: demo demo-check test check lint bench constraints clean

demo: .venv/.ready
	$(PY) scripts/demo.py run --seed $(SEED) demo

demo-check: .venv/.ready
	$(PY) scripts/demo.py check demo

test: .venv/.ready
	$(PY) -m pytest -q

check: lint test

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.ready
	$(PY) benchmarks/encoders.py

constraints: .venv/.ready
	sh ci/make_constraints.sh

clean:
	rm -rf .venv .uv demo build dist *.egg-info

.venv/.ready: pyproject.toml ci/constraints.txt ci/setup.sh .made-for
	sh ci/setup.sh

# Changes when TORCH or PYTHON does, and only then, so that .venv is made anew.
.made-for: FORCE
	@echo "$(TORCH) $(PYTHON)" | cmp -s - $@ || echo "$(TORCH) $(PYTHON)" >$@

FORCE:
