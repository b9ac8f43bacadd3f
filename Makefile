# make demo  - distil a polyp segmentation student on generated frames and compare it (minutes on two cores)
# make test  - the whole test suite
# make lint  - ruff and mypy
# make benchmark - what all costs beside the straightforward forms: benchmarks/RESULTS.md (an hour on one core)
# make test-label - MONAI Label serves the bundles and trains those for CT, in an environment of its own
# make test-faults - trainings are killed at eighty random points and resumed (an hour on one core)
# make test-distributed - trainings in two and four processes and on two nodes against one process (minutes)
# make test-fuzz - all bad input is brought to every place where a file comes in (ten minutes on two cores)
# make test-deploy - MONAI Deploy runs an exported student, in an environment of its own
# make test-federated - NVFlare simulates sites that share a student, in an environment of its own
# Each starts from Python 3.11 (PYTHON=... for another) and make alone.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
BUNDLE := bundles/kdas_polyp_segmentation
OUT := demo_output
LABEL_VENV := .venv-label
LABEL_INSTALL = $(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
DEPLOY_VENV := .venv-deploy
DEPLOY_INSTALL = $(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
FEDERATED_VENV := .venv-federated
FEDERATED_INSTALL = $(FEDERATED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# Networks this small are quickest on one thread.
RUN = OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m monai.bundle run --meta_file $(BUNDLE)/configs/metadata.json \
	--logging_file $(BUNDLE)/configs/logging.conf --bundle_root $(BUNDLE)
C := $(BUNDLE)/configs

.PHONY: install demo test test-faults test-fuzz test-distributed test-label test-deploy test-federated lint benchmark clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,test]"
	touch $@

demo: install
	@echo "--- 1/2 the teacher on all labels, the student alone and distilled on a quarter: trained, scored, compared"
	OMP_NUM_THREADS=1 $(BIN)/monai-kd compare $(BUNDLE) --config $(C)/demo.json --seeds 0 \
		--set teacher:labelled_fraction=1.0 --output $(OUT)/comparison
	@echo "--- 2/2 masks of new frames by the distilled student"
	$(BIN)/python -c "from monai_kd.data import make_polyp_frames; make_polyp_frames('$(OUT)/new_frames', count=4, seed=1)"
	$(RUN) --config_file "['$(C)/inference.json','$(C)/demo.json']" --dataset_dir $(OUT)/new_frames/images \
		--ckpt_dir $(OUT)/comparison/distilled/seed_0/models --output_dir $(OUT)/masks
	$(BIN)/monai-kd report $(OUT)/comparison

# One process a core, each on one thread; the tests of a file stay together and share what they have trained.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults --numprocesses auto --maxprocesses 8 tests/faults tests/bundles

# An empty -m: with the tests in two processes, which are in make test too.
test-distributed: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" tests/distributed

test-fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fuzz --numprocesses auto --maxprocesses 8 tests/hardening

test-label: $(LABEL_VENV)/installed
	$(LABEL_VENV)/bin/python -m pytest -m label tests/label

$(LABEL_VENV)/installed: setup.cfg pyproject.toml constraints.txt tests/label/requirements.txt
	$(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_INSTALL) --upgrade pip
	$(LABEL_INSTALL) --constraint constraints.txt --requirement tests/label/requirements.txt --editable . pytest pytest-timeout
	$(LABEL_INSTALL) --no-deps monailabel==0.8.5 pydicom-seg==0.4.1 torchvision==0.28.0
	touch $@

test-federated: $(FEDERATED_VENV)/installed
	OMP_NUM_THREADS=1 $(FEDERATED_VENV)/bin/python -m pytest -m federated tests/federated

$(FEDERATED_VENV)/installed: setup.cfg pyproject.toml constraints.txt tests/federated/requirements.txt
	$(PYTHON) -m venv $(FEDERATED_VENV)
	$(FEDERATED_INSTALL) --upgrade pip
	$(FEDERATED_INSTALL) --constraint constraints.txt --requirement tests/federated/requirements.txt \
		--editable ".[cli,federated]" pytest pytest-timeout
	touch $@

test-deploy: $(DEPLOY_VENV)/installed
	OMP_NUM_THREADS=1 $(DEPLOY_VENV)/bin/python -m pytest -m deploy tests/deploy

$(DEPLOY_VENV)/installed: setup.cfg pyproject.toml constraints.txt tests/deploy/requirements.txt
	$(PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_INSTALL) --upgrade pip
	$(DEPLOY_INSTALL) --constraint constraints.txt --requirement tests/deploy/requirements.txt \
		--editable ".[cli]" pytest pytest-timeout
	$(DEPLOY_INSTALL) --no-deps monai-deploy-app-sdk==4.0.0 holoscan-cu13==4.6.0 tritonclient==2.73.0
	touch $@

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

benchmark: $(VENV)/opponents
	$(BIN)/python -W ignore -m benchmarks

# What others' losses cost: beside the environment, for torchvision would change the rest of it.
$(VENV)/opponents: $(VENV)/installed
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ \
		torchdistill==1.1.5 torchvision==0.28.0
	touch $@

clean:
	rm -rf $(OUT) $(VENV) $(LABEL_VENV) $(DEPLOY_VENV) $(FEDERATED_VENV) build *.egg-info
