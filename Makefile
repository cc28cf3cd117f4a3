# llmc-µP. `make` builds the CPU trainer, `make run` trains a first model, `make test` proves it against PyTorch, `make help` lists the rest.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := train_gpt2

CXX      ?= g++
# gcc would use half of an AVX-512 register by default; elsewhere the second flag changes nothing
ARCH     ?= -march=native $(if $(filter x86_64,$(shell uname -m)),-mprefer-vector-width=512)
CXXFLAGS ?= -O3 $(ARCH)
WARNINGS := -Wall -Wextra -Wno-missing-field-initializers -Wno-restrict  # gcc 12 sees overlaps in std::string that are not there
FLAGS    := -std=c++20 -I. $(CXXFLAGS) -fopenmp -fno-math-errno -fno-trapping-math $(WARNINGS)
BUILD    := build
VENV     := .venv
PYTHON   := $(VENV)/bin/python
VERSION  := 0.1.0

COMMON  := $(wildcard llmc/*.cpp llmc/gpt2/*.cpp llmc/checkpoint/*.cpp llmc/trainer/*.cpp)
CPU     := $(wildcard llmc/cpu/*.cpp)
BINDING := $(wildcard llmc/python/*.cpp)
objects  = $(patsubst %.cpp,$(BUILD)/%.o,$(1))

# One object a source, headers tracked by the compiler.
$(BUILD)/%.o: %.cpp | toolchain
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) -fPIC -MMD -MP -c $< -o $@
$(BUILD)/train_gpt2.o: train_gpt2.cu | toolchain
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) -MMD -MP -x c++ -c $< -o $@
$(BUILD)/llmc/python/%.o: FLAGS += $(shell $(PYTHON) -m pybind11 --includes 2>/dev/null) -fvisibility=hidden -DLLMC_MODULE=_cpu
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# What was built; rewritten only when it changes, so that an unchanged tree relinks nothing.
$(BUILD)/version.cpp: FORCE
	@mkdir -p $(@D)
	@{ echo '#include "llmc/version.h"'; echo 'namespace llmc {'; \
	   echo 'const char* const kVersion = "$(VERSION)";'; \
	   echo "const char* const kGitCommit = \"$$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)\";"; \
	   echo "const char* const kCompiler = \"$$($(CXX) --version 2>/dev/null | head -n 1) $(CXXFLAGS)\";"; echo '}'; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
$(BUILD)/version.o: $(BUILD)/version.cpp | toolchain
	$(CXX) $(FLAGS) -fPIC -c $< -o $@

train_gpt2: $(BUILD)/train_gpt2.o $(BUILD)/version.o $(call objects,$(COMMON) $(CPU))
	$(CXX) $(FLAGS) $^ -o $@ -ldnnl -lpthread

# The pybind11 module, built in place: `import llmc` from this folder.
EXT_SUFFIX = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))" 2>/dev/null)
MODULE = llmc/_cpu$(EXT_SUFFIX)
module: $(MODULE)
llmc/_cpu$(EXT_SUFFIX): $(BUILD)/version.o $(call objects,$(COMMON) $(CPU) $(BINDING))
	$(CXX) $(FLAGS) -shared $^ -o $@ -ldnnl -lpthread

.PHONY: run test test-slow bench lint module toolchain venv venv-dev help clean FORCE
FORCE:
toolchain:            ## install the compiler and libraries where they are missing
	@scripts/setup.sh toolchain
venv:                 ## make .venv for the data scripts and figures
	@scripts/setup.sh venv
venv-dev:             ## add what the tests and train_gpt2.py need (PyTorch)
	@scripts/setup.sh venv-dev

run: venv             ## train a small muP GPT-2 on your Python's standard library, about two minutes
	@$(MAKE) --no-print-directory -j2 train_gpt2
	@scripts/first_run.sh

PYTEST := $(PYTHON) -m pytest
test: venv-dev        ## every test, against PyTorch too
	@$(MAKE) --no-print-directory -j2 train_gpt2 module
	$(PYTEST) -m "not slow" tests
test-slow: venv-dev   ## the long ones
	@$(MAKE) --no-print-directory -j2 train_gpt2 module
	$(PYTEST) -m slow tests
bench: venv-dev       ## this program and train_gpt2.py in turn, at the same sizes
	@$(MAKE) --no-print-directory -j2 train_gpt2
	$(PYTHON) dev/bench.py
lint: venv-dev        ## style of the sources
	$(VENV)/bin/ruff check .
	$(VENV)/bin/clang-format --dry-run -Werror $(shell git ls-files '*.cpp' '*.h' '*.cu')
	@for f in scripts/*.sh .ci/run; do bash -n $$f || exit 1; done

help:                 ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14
clean:                ## remove what was built (not .venv, data or runs)
	rm -rf $(BUILD) train_gpt2 llmc/_*.so
