# `make help` lists the commands. A recipe line of one program is started without a shell in between, so that a signal to
# make reaches that program.

PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --no-input
MCP := .cache/mcp-1.30.0
OLD_CLIENT := .cache/faircompute-0.20.1
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_% benchmarks/lines.py benchmarks/faults.py benchmarks/gpu_check.py,$(wildcard benchmarks/*.py)))

MAKEFLAGS += --no-builtin-rules --no-print-directory
# Every process that a test starts would compile this project's own modules again.
unexport PYTHONDONTWRITEBYTECODE
.SUFFIXES:
.NOTPARALLEL:
.PHONY: help run worker test test-networks test-image check space-check lines faults gpu-check bench clean demo-sheet demo-train install rathole debian-packages test-machines $(BENCHMARKS)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | sed 's/@/\t/'

run: .venv/installed-run rathole ## install what is missing, start the page and all that it needs, print its address
	@PYTHONUNBUFFERED=1 exec $(PYTHON) app.py

# Two workers, each with services, ports and folders of its own; one that has nothing left to do takes over half of what
# the other one still has before it, so that the two end together.
PYTEST_PARALLEL := $(PYTHON) -m pytest --numprocesses 2 --dist worksteal

worker: .venv/installed-engine ## draw for a Space that this machine dials: SPACE=you/draw MODEL_ID=... WORKER_KEY=... (or .env)
	@export WORKER_KEY="$${WORKER_KEY:-$$($(PYTHON) manage.py worker-key --key 2>/dev/null)}"; \
	INFERENCE_ENGINE=$${INFERENCE_ENGINE:-$${MODEL_ID:+diffusers}} PYTHONUNBUFFERED=1 exec $(PYTHON) -m inference_server

test: install ## install what the tests need (Chromium included), run all of them
	@$(PYTEST_PARALLEL) -m "not alone and not image and not networks" --durations=40 --durations-min=5; together=$$?; $(PYTHON) -m pytest -m alone; alone=$$?; exit $$((together | alone))

test-networks: install ## run the tests with a Space and a worker in networks of their own, as root
	@$(PYTHON) -m pytest -m networks -rs

test-image: install ## build, push, pull and run the image with Docker (docker, as root also debootstrap and docker-registry)
	@$(PYTHON) -m pytest -m image -rs

test-machines: .venv/installed-test $(OLD_CLIENT)/installed rathole ## run Fair over real Docker engines in networks of their own (as root; Docker is installed); LONG=1: cuts of minutes, too
	@$(PYTHON) -m tools.get_docker
	@FAIR_EXECUTOR=swarm $(PYTHON) -m pytest $(if $(LONG),,-m "not long") --durations=20 tests/fair_server/test_programs.py tests/fair_server/test_server.py tests/machines

check: .venv/installed-test ## format, lint, types and the quick tests, within a minute (the first time it installs 3 GB)
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@mkdir -p build; $(PYTHON) -m mypy . >build/types.txt 2>&1 & types=$$!; $(PYTEST_PARALLEL) -m "not slow"; tests=$$?; \
	wait $$types; types=$$?; cat build/types.txt; exit $$((tests | types))

space-check: .venv/installed-run ## find what a Hugging Face Space would refuse: pins, files, the card in README.md
	@$(PYTHON) -m tools.space_check

lines: .venv/installed-test debian-packages ## try a worker's line, good and bad, with cuts and kills, as root: REQUESTS=200 SEED=1
	@exec $(PYTHON) -m benchmarks.lines --requests $(or $(REQUESTS),200) --seed $(or $(SEED),1)

faults: .venv/installed-test rathole ## strike the chain with fifteen faults, at moments that seeds decide: SEEDS=100 (Go or toxiproxy-server)
	@$(PYTHON) -m tools.get_toxiproxy
	@exec $(PYTHON) -m benchmarks.faults --seeds $(or $(SEEDS),2)

gpu-check: .venv/installed-engine ## try on this machine's GPU what needs one, in at most 8 minutes: equality, lack of memory, speed
	@exec $(PYTHON) -m benchmarks.gpu_check

bench: $(BENCHMARKS) ## run every benchmark; each prints a table

demo-sheet: .venv/installed-run ## draw the demo model's prompt lists on contact sheets, in build/demo_sheets
	@$(PYTHON) -m demo_model.training.sheet

TRAIN_FOLDER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stable-diffusion-space-training
TRAIN_PYTHON := $(TRAIN_FOLDER)/venv/bin/python
TRAIN := OMP_WAIT_POLICY=passive nice -n 19 $(TRAIN_PYTHON) -m

demo-train: $(TRAIN_FOLDER)/venv/installed $(TRAIN_FOLDER)/npm/node_modules ## train the demo model, or go on with it (hours; see demo_model/README.md)
	@$(TRAIN) demo_model.training.train_autoencoder --run $(TRAIN_FOLDER)
	@$(TRAIN) demo_model.training.samples --run $(TRAIN_FOLDER)
	@$(TRAIN) demo_model.training.train --run $(TRAIN_FOLDER)

$(TRAIN_FOLDER)/venv/installed: demo_model/training/requirements.txt
	@mkdir -p $(TRAIN_FOLDER)
	@sh tools/venv.sh $(TRAIN_FOLDER)/venv
	@echo "Installing what the training needs (6 GB on the disk) ..."
	@$(TRAIN_PYTHON) -m pip --disable-pip-version-check --no-input install --quiet -r demo_model/training/requirements.txt
	@touch $@

$(TRAIN_FOLDER)/npm/node_modules: demo_model/training/package.json
	@mkdir -p $(TRAIN_FOLDER)/npm
	@cp demo_model/training/package.json $(TRAIN_FOLDER)/npm/
	@npm install --silent --prefix $(TRAIN_FOLDER)/npm
	@touch $@

clean: ## remove what these commands have put into this folder (not: benchmarks/results, ~/.cache, Chromium)
	rm -rf .venv .rathole .toxiproxy .cache .mypy_cache .pytest_cache .ruff_cache build
	find . -name __pycache__ -prune -exec rm -rf {} +

install: .venv/installed-test $(OLD_CLIENT)/installed $(MCP)/installed debian-packages rathole

$(BENCHMARKS): bench-%: .venv/installed-test rathole
	@$(PYTHON) -m benchmarks.$*

# A virtual environment dies with the Python that it was made from, after an upgrade of the system for instance.
$(shell [ ! -d .venv ] || $(PYTHON) -c "" 2>/dev/null || rm -f .venv/installed-*)

# The files `installed-*` are stamps: a step is done again only when what it installs from has changed since.
.venv/installed-python:
	@sh tools/venv.sh .venv
	@touch $@

.venv/installed-run: .venv/installed-python requirements.txt $(if $(filter diffusers,$(INFERENCE_ENGINE)),.venv/installed-engine)
	@echo "Installing the page and its model runtime (about 160 MB to download), about a minute ..."
	@$(PIP) install --quiet -r requirements.txt
	@touch $@

.venv/installed-engine: .venv/installed-python inference_server/requirements.txt
	@echo "Installing the inference server with all its engines (about 3 GB to download, 6 GB on the disk) ..."
	@$(PIP) install --quiet -r inference_server/requirements.txt
	@touch $@

.venv/installed-test: .venv/installed-run .venv/installed-engine tests/requirements.txt
	@echo "Installing the test tools (about 85 MB to download) ..."
	@$(PIP) install --quiet -r tests/requirements.txt
	@touch $@

$(OLD_CLIENT)/installed:
	@rm -rf $(OLD_CLIENT)
	@$(PIP) install --quiet --no-deps --target $(OLD_CLIENT) faircompute==0.20.1
	@touch $@

$(MCP)/installed: tests/mcp-requirements.txt
	@rm -rf $(MCP)
	@$(PIP) install --quiet --no-deps --target $(MCP) -r tests/mcp-requirements.txt
	@touch $@

rathole: .venv/installed-python
	@$(PYTHON) tools/get_rathole.py

debian-packages: .venv/installed-python
	@$(PYTHON) -m tools.get_debian_packages
