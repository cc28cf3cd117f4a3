# llmc-µP. `make` builds the CPU trainer, `make run` trains a first model, `make test` compares it with PyTorch,
# `make help` lists the rest.
#
# One set of sources for three backends, which differ in what is linked:
#   train_gpt2     the CPU                  llmc._cpu     for Python
#   train_gpt2cu   the CUDA kernels, nvcc   llmc._cuda
#   train_gpt2emu  the same, on the CPU     llmc._emu
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules  # make would try to build the included .d files
.DELETE_ON_ERROR:
.DEFAULT_GOAL := train_gpt2

CXX      ?= g++
# A build runs on every x86-64 machine since 2013 (x86-64-v3: AVX2, FMA). Only the kernels of llmc/cpu are compiled more
# than once, for each of ISAS, and llmc/cpu/dispatch.cpp chooses a set when the program runs.
X86_64   := $(filter x86_64,$(shell uname -m))
ARCH     ?= $(if $(X86_64),-march=haswell)
CXXFLAGS ?= -O3 $(ARCH)
ISAS     ?= $(if $(X86_64),avx2 avx512 avx512_bf16,generic)  # the best one last; generic: only CXXFLAGS
ISA_avx2        := -march=haswell
ISA_avx512      := -march=skylake-avx512 -mprefer-vector-width=512  # gcc would use half of a register by default
ISA_avx512_bf16 := -march=cooperlake -mprefer-vector-width=512
WARNINGS := -Wall -Wextra -Wno-missing-field-initializers -Wno-restrict  # gcc 12 has false positives in std::string
BUILD    := build
DEPS     := $(BUILD)/deps/include  # copies of header-only libraries: a copied tree includes them
COMMON_FLAGS := -std=c++20 -I. -isystem $(DEPS) -fPIC -fno-math-errno -fno-trapping-math $(WARNINGS)
FLAGS    := $(COMMON_FLAGS) $(CXXFLAGS) -fopenmp
EMU_FLAGS := $(COMMON_FLAGS) -O2 $(ARCH) -Wno-unknown-pragmas -Wno-maybe-uninitialized
ALL_FLAGS := $(CXX) $(FLAGS) $(EMU_FLAGS) $(ISAS) $(foreach isa,$(ISAS),$(ISA_$(isa)))
OBJCOPY  ?= objcopy
VENV     := .venv
PYTHON   := $(VENV)/bin/python
VERSION  := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' python/llmc/version.py)

ROOMS   := core ops comm mup gpt2 data train  # the code that all backends share
COMMON  := $(filter-out llmc/comm/host_comm.cpp,\
               $(wildcard $(ROOMS:%=llmc/%/*.cpp) llmc/train/checkpoint/*.cpp llmc/train/options/*.cpp))
CPU     := $(patsubst %,llmc/cpu/%.cpp,device dispatch onednn parallel scratch) llmc/comm/host_comm.cpp
CPU_KERNELS := $(filter-out $(CPU),$(wildcard llmc/cpu/*.cpp))  # compiled once for each of ISAS
KERNELS := $(wildcard llmc/cuda/*.cu llmc/comm/*.cu)
EMULATOR := $(wildcard llmc/emulator/*.cpp)
BINDING := $(filter-out llmc/bind/bindings.cpp,$(wildcard llmc/bind/*.cpp))
objects  = $(patsubst %,$(BUILD)/$(1)%.o,$(basename $(2)))

COMMON_OBJECTS := $(BUILD)/version.o $(call objects,,$(COMMON))
CPU_OBJECTS := $(call objects,,$(CPU)) $(ISAS:%=$(BUILD)/kernels_%.o)
EMU_OBJECTS := $(call objects,emu/,$(KERNELS) $(EMULATOR))
CUDA_BUILD := $(BUILD)/cuda
CUDA_OBJECTS := $(patsubst %.cu,$(CUDA_BUILD)/%.o,$(KERNELS))

# --- One object for each source; the compiler tracks the headers ---
$(BUILD)/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) -MMD -MP -c $< -o $@
$(BUILD)/llmc/cpu/onednn.o: | toolchain
$(BUILD)/llmc/cpu/dispatch.o: FLAGS += -DLLMC_CPU_ISAS='$(foreach isa,$(ISAS),ISA($(isa)))'
# Compiled for every x86-64: it reports a processor that cannot run the rest.
ifneq ($(filter -march=haswell,$(CXXFLAGS)),)
$(BUILD)/llmc/core/processor.o: FLAGS += -march=x86-64 -DLLMC_NEEDS_X86_64_V3
endif
$(BUILD)/train_gpt2.o: train_gpt2.cu $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) -MMD -MP -x c++ -c $< -o $@
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
# Written only if the flags change; then everything is compiled again.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(ALL_FLAGS)' | cmp -s - $@ || echo '$(ALL_FLAGS)' > $@

# --- The CPU's kernels, one object for each instruction set ---
# Inline functions and templates, those of the standard library included, are compiled into every object file that uses
# them, and the linker keeps one copy for each name: that copy could have AVX-512 instructions. Therefore the objects of
# a set are linked into one object in which all names but that of its table are local (tests/test_cpu_build.py).
define kernels_for
$(BUILD)/$(1)/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $$(@D)
	$(CXX) $(FLAGS) $(ISA_$(1)) -DLLMC_ISA=$(1) -MMD -MP -c $$< -o $$@
$(BUILD)/kernels_$(1).o: $(call objects,$(1)/,$(CPU_KERNELS))
	$(LD) -r --force-group-allocation $$^ -o $$@
	$(OBJCOPY) --wildcard --keep-global-symbol='_ZN4llmc3cpu*$(1)7kernelsE' $$@
endef
$(foreach isa,$(ISAS),$(eval $(call kernels_for,$(isa))))

# Version and build. Written only if it changes, so that an unchanged tree is not linked again.
$(BUILD)/version.cpp: FORCE
	@mkdir -p $(@D)
	@{ echo '#include "llmc/core/version.h"'; echo 'namespace llmc {'; \
	   echo 'const char* const kVersion = "$(VERSION)";'; \
	   commit=$$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown); \
	   echo "const char* const kGitCommit = \"$$commit\";"; \
	   echo "const char* const kCompiler = \"$$($(CXX) --version 2>/dev/null | head -n 1) $(CXXFLAGS)\";"; \
	   echo '}'; } > $@.$$$$; \
	 if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi
$(BUILD)/version.o: $(BUILD)/version.cpp $(BUILD)/flags | headers
	$(CXX) $(FLAGS) -c $< -o $@

# --- The CUDA kernels for the emulator, compiled as C++ ---
$(BUILD)/emu/%.o: %.cu $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -MMD -MP -x c++ -c $< -o $@
$(BUILD)/emu/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -MMD -MP -c $< -o $@

# The same with sanitizers. ThreadSanitizer checks only the kernels: the emulator itself is not instrumented.
ASAN := -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer
$(BUILD)/asan/%.o: %.cu $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -O1 -g1 -gdwarf-4 $(ASAN) -MMD -MP -x c++ -c $< -o $@
$(BUILD)/asan/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -O1 -g1 -gdwarf-4 $(ASAN) -MMD -MP -c $< -o $@
$(BUILD)/tsan/%.o: %.cu $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -O1 -g1 -gdwarf-4 -fsanitize=thread -MMD -MP -x c++ -c $< -o $@
$(BUILD)/tsan/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -DLLMC_EMULATOR_TSAN -MMD -MP -c $< -o $@

# The same, counting (llmc/emulator/counters.h): instrumented as for ThreadSanitizer, without its runtime.
COUNT := -DLLMC_EMULATOR_COUNT -g1
$(BUILD)/count/%.o: %.cu $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(COUNT) -fsanitize=thread -MMD -MP -x c++ -c $< -o $@
$(BUILD)/count/%.o: %.cpp $(BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(COUNT) -MMD -MP -c $< -o $@

# --- The CUDA kernels for GPUs. nvcc: on PATH, in CUDA_HOME, or from pip (make cuda-toolkit) ---
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null) \
                    $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu*/bin/nvcc))
CUDA_ROOT = $(shell $(NVCC) --dryrun -x cu /dev/null 2>&1 | sed -n 's/^\#\$$ TOP=//p' | head -n 1)
CUDA_LIB = $(dir $(firstword $(wildcard $(patsubst %,$(CUDA_ROOT)/%/libcudart_static.a,lib64 lib targets/*/lib))))
# Architectures: CUDA_ARCH="80 90a". By default those of all GPUs in this machine that nvcc knows (CUDA orders GPUs in
# another way than nvidia-smi, and CUDA_VISIBLE_DEVICES may choose another one later), or these two. Always with PTX, from
# which the driver compiles for all others.
KNOWN_ARCHS = $(shell $(NVCC) --list-gpu-arch 2>/dev/null | sed -n 's/^compute_//p')
LOCAL_ARCHS = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null \
                       | grep -E '^[0-9]+\.[0-9]+$$' | tr -d . | sort -nu | awk '$$1 >= 80')
USED_ARCHS = $(patsubst 90,90a,$(if $(KNOWN_ARCHS),$(filter $(KNOWN_ARCHS),$(LOCAL_ARCHS)),$(LOCAL_ARCHS)))
CUDA_ARCH ?= $(if $(LOCAL_ARCHS),$(USED_ARCHS),80 90a)
GENCODE = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80
NVFLAGS = -std=c++20 -I. -O3 --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v -Xcompiler -fPIC -ccbin $(CXX) \
          $(GENCODE)
$(CUDA_BUILD)/llmc/cuda/gpu_info.o: NVFLAGS += -DLLMC_CUDA_ARCH='"$(strip $(CUDA_ARCH))"'
# The report of ptxas (registers, spills) is kept next to the object.
$(CUDA_BUILD)/%.o: %.cu $(CUDA_BUILD)/flags | headers
	@mkdir -p $(@D)
	@[[ -n "$(NVCC)" ]] || { \
	   echo "make: no nvcc on PATH or in CUDA_HOME: install CUDA 12.4 or newer, or run make cuda-toolkit" >&2; exit 1; }
	@echo '$(NVCC) $(NVFLAGS) -c $<'
	@$(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ 2> $(@:.o=.ptxas) || { \
	   grep -v '^ptxas info' $(@:.o=.ptxas) >&2; exit 1; }
	@! grep '(C75[0-9]*)' $(@:.o=.ptxas) >&2 || { rm $@; exit 1; }  # waits that ptxas added to wgmma
# Written only if compiler or architectures change; then all kernels are compiled again.
$(CUDA_BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVFLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVFLAGS)' > $@

# --- Programs ---
# oneDNN is Debian's shared library. In a wheel it is in llmc/lib, with its dependencies. Therefore RPATH, not RUNPATH:
# it also applies to libraries of libraries.
CPU_LIBS := -ldnnl -lpthread -ldl -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN/lib:$$ORIGIN/../lib'
PROGRAM := train_gpt2
$(PROGRAM): $(BUILD)/train_gpt2.o $(COMMON_OBJECTS) $(CPU_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ $(CPU_LIBS)
train_gpt2emu: $(BUILD)/train_gpt2.o $(COMMON_OBJECTS) $(EMU_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ -lpthread
$(CUDA_BUILD)/train_gpt2cu: $(BUILD)/train_gpt2.o $(COMMON_OBJECTS) $(CUDA_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ -L$(CUDA_LIB) -lcudart_static -ldl -lrt -lpthread
train_gpt2cu: $(CUDA_BUILD)/train_gpt2cu
	cp $< $@
cuda-objects: $(CUDA_OBJECTS)
cuda-tests: $(CUDA_BUILD)/train_gpt2cu $(CUDA_BUILD)/conformance

# Every collective of several processes, checked (tests/test_collectives.py)
$(BUILD)/collectives: $(BUILD)/tests/comm/collectives.o $(COMMON_OBJECTS) $(CPU_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ $(CPU_LIBS)
$(BUILD)/emu/collectives: $(BUILD)/tests/comm/collectives.o $(COMMON_OBJECTS) $(EMU_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ -lpthread
# The whole CPU program under ThreadSanitizer, for runs of one thread beside that of MPI: OpenMP's is not instrumented
race:
	+@$(MAKE) --no-print-directory BUILD=$(BUILD)/race DEPS=$(DEPS) PROGRAM=$(BUILD)/race/train_gpt2 ISAS=avx2 \
	    CXXFLAGS="-O1 -g1 $(ARCH) -fsanitize=thread" $(BUILD)/race/train_gpt2 $(BUILD)/race/collectives

# Tests of every instruction wrapper, on the CPU and on a GPU
$(foreach kind,emu asan tsan,$(eval $(BUILD)/$(kind)/conformance: $(BUILD)/$(kind)/tests/cuda/conformance.o \
    $(COMMON_OBJECTS) $(call objects,$(kind)/,$(KERNELS) $(EMULATOR))))
# Faults that the emulator must refuse (tests/test_emulator.py)
$(BUILD)/emu/faults: $(BUILD)/emu/tests/cuda/faults.o $(COMMON_OBJECTS) $(EMU_OBJECTS)
# Requests of memory that the counters must count (tests/test_counters.py)
$(BUILD)/count/counting: $(BUILD)/count/tests/cuda/counting.o $(COMMON_OBJECTS) \
    $(call objects,count/,$(KERNELS) $(EMULATOR))
$(BUILD)/emu/conformance $(BUILD)/asan/conformance $(BUILD)/tsan/conformance $(BUILD)/emu/faults $(BUILD)/count/counting:
	$(CXX) $(FLAGS) $(RUNTIME) $^ -o $@ -lpthread
$(CUDA_BUILD)/conformance: $(CUDA_BUILD)/tests/cuda/conformance.o $(COMMON_OBJECTS) $(CUDA_OBJECTS)
	$(CXX) $(FLAGS) $^ -o $@ -L$(CUDA_LIB) -lcudart_static -ldl -lrt -lpthread

# --- pybind11 modules for one Python, PYTHON (default: .venv's). `import llmc` finds them in python/llmc ---
PY_BUILD := $(BUILD)/python$(subst /,_,$(PYTHON))
PY_FLAGS  = $(FLAGS) $$($(PYTHON) -m pybind11 --includes) -fvisibility=hidden
BINDING_OBJECTS = $(COMMON_OBJECTS) $(patsubst %.cpp,$(PY_BUILD)/%.o,$(BINDING))
$(PY_BUILD)/flags: FORCE | python
	@mkdir -p $(@D)
	@{ echo '$(ALL_FLAGS)'; $(PYTHON) -VV; $(PYTHON) -m pybind11 --includes --version; } > $@.$$$$; \
	 if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi
$(PY_BUILD)/llmc/bind/%.o: llmc/bind/%.cpp $(PY_BUILD)/flags | headers
	@mkdir -p $(@D)
	$(CXX) $(PY_FLAGS) -MMD -MP -c $< -o $@
$(PY_BUILD)/bindings_%.o: llmc/bind/bindings.cpp $(PY_BUILD)/flags | headers
	$(CXX) $(PY_FLAGS) -MMD -MP -DLLMC_MODULE=_$* -DLLMC_EMULATED=$(if $(filter emu,$*),1,0) -c $< -o $@
$(PY_BUILD)/_cpu.so: $(PY_BUILD)/bindings_cpu.o $(BINDING_OBJECTS) $(CPU_OBJECTS)
	$(CXX) $(FLAGS) -shared $^ -o $@ $(CPU_LIBS)
$(PY_BUILD)/_emu.so: $(PY_BUILD)/bindings_emu.o $(BINDING_OBJECTS) $(EMU_OBJECTS)
	$(CXX) $(FLAGS) -shared $^ -o $@ -lpthread
$(PY_BUILD)/_cuda.so: $(PY_BUILD)/bindings_cuda.o $(BINDING_OBJECTS) $(CUDA_OBJECTS)
	$(CXX) $(FLAGS) -shared $^ -o $@ -L$(CUDA_LIB) -lcudart_static -ldl -lrt -lpthread
# Copied into the package and renamed: a running Python keeps the old module.
define install_module
	@to=python/llmc/$(1)$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	 cmp -s $< $$to || { cp $< $$to.new && mv $$to.new $$to; }
endef
module: $(PY_BUILD)/_cpu.so           ## llmc.cpu for Python
	$(call install_module,_cpu)
module-emu: $(PY_BUILD)/_emu.so       ## llmc.emulated: the CUDA kernels on the CPU
	$(call install_module,_emu)
module-cuda: $(PY_BUILD)/_cuda.so     ## llmc.cuda
	$(call install_module,_cuda)
# The emulated module with sanitized kernels, for tests/test_sanitizers.py
module-asan: $(BUILD)/asan/_emu.so
module-tsan: $(BUILD)/tsan/_emu.so
module-count: $(BUILD)/count/_emu.so
$(BUILD)/asan/_emu.so: $(call objects,asan/,$(KERNELS) $(EMULATOR))
$(BUILD)/count/_emu.so: $(call objects,count/,$(KERNELS) $(EMULATOR))
$(BUILD)/tsan/_emu.so: $(call objects,tsan/,$(KERNELS) $(EMULATOR))
$(BUILD)/asan/_emu.so $(BUILD)/asan/conformance: RUNTIME := $(ASAN)
$(BUILD)/tsan/_emu.so $(BUILD)/tsan/conformance: RUNTIME := -fsanitize=thread
$(BUILD)/asan/_emu.so $(BUILD)/tsan/_emu.so $(BUILD)/count/_emu.so: $(PY_BUILD)/bindings_emu.o $(BINDING_OBJECTS)
	$(CXX) $(FLAGS) $(RUNTIME) -shared $^ -o $@ -lpthread

.PHONY: run test race cuda-objects cuda-tests kernel-report test-slow test-avx2 test-sanitizers figures gpu-check \
        bench bench-ranks lint help clean FORCE module module-emu module-cuda module-asan module-tsan module-count \
        headers toolchain cuda-toolkit python venv venv-dev options stubs tidy
FORCE:
headers:              ## install a C++ compiler and the header-only libraries where they are missing
	@scripts/setup.sh headers
toolchain:            ## the same, and oneDNN for the CPU backend
	@scripts/setup.sh toolchain
cuda-toolkit: venv    ## nvcc into .venv, for machines without CUDA (100 MB; no GPU or driver needed)
	@scripts/setup.sh cuda-toolkit
python:               ## what a native module needs: Python's headers and pybind11
	@scripts/setup.sh python $(PYTHON)
venv:                 ## make .venv for the data scripts and figures
	@scripts/setup.sh venv
venv-dev:             ## add the packages of the tests and train_gpt2.py (PyTorch)
	@scripts/setup.sh venv-dev

run: venv             ## train a small muP GPT-2 on your Python's standard library, about two minutes
	@$(MAKE) --no-print-directory -j$(JOBS) train_gpt2
	@scripts/first_run.sh

JOBS   ?= $(shell nproc)
PYTEST := $(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
SANITIZED := $(foreach kind,emu asan tsan,$(BUILD)/$(kind)/conformance) module-asan module-tsan
BUILT_FOR_TESTS := train_gpt2 train_gpt2emu module module-emu $(BUILD)/collectives $(BUILD)/emu/collectives \
                   $(BUILD)/emu/faults $(SANITIZED) module-count $(BUILD)/count/counting
CUDA_TESTS := CUDA_BUILD=$(BUILD)/cuda-tests CUDA_ARCH="80 90a"  # for tests/test_cuda_build.py
test: venv-dev        ## every test, against PyTorch too; the CUDA kernels on the CPU
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILT_FOR_TESTS)
	@scripts/setup.sh cuda-toolkit && $(MAKE) --no-print-directory -j$(JOBS) $(CUDA_TESTS) cuda-tests \
	    || echo "make: no CUDA toolkit: the tests of the compiled kernels will be skipped"
	@scripts/setup.sh mpi || echo "make: no MPI: the tests of several processes will be skipped"
	$(PYTEST) -m "not slow" tests
test-slow: venv-dev   ## the long tests
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILT_FOR_TESTS)
	@scripts/setup.sh cuda-toolkit || echo "make: no CUDA toolkit: the tests of newer architectures will be skipped"
	@scripts/setup.sh llama-cpp || echo "make: no llama-cpp-python: the tests that load models into it will be skipped"
	@scripts/setup.sh mpi && $(MAKE) --no-print-directory -j$(JOBS) race \
	    || echo "make: no MPI: the tests of several processes will be skipped"
	@scripts/setup.sh lm-eval || echo "make: no lm_eval: its tests will be skipped"
	$(PYTEST) -m slow tests
test-avx2:            ## every test as on a processor without AVX-512: the kernels, oneDNN and NumPy
	ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell LLMC_CPU_ISA=avx2 $(MAKE) --no-print-directory test
test-sanitizers: venv-dev  ## the CUDA kernels, emulated, under ThreadSanitizer and AddressSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILT_FOR_TESTS)
	LLMC_SANITIZE_ALL=1 $(PYTHON) -m pytest tests/test_sanitizers.py tests/test_planted_bugs.py
figures: venv         ## the figures, tables and data of mup.md, from new runs (a quarter of an hour)
	@$(MAKE) --no-print-directory -j$(JOBS) train_gpt2
	@scripts/figures.sh
gpu-check:            ## on a machine with a GPU: build, test, compare with PyTorch, benchmark (8 minutes)
	@scripts/gpu_check.sh
# Code for all architectures whose resident blocks it reports.
REPORTED := CUDA_BUILD=$(BUILD)/kernel-report CUDA_ARCH="80 89 90a 100 120"
kernel-report: venv-dev  ## counts what the CUDA kernels ask of a GPU, without one: bench/kernels.json (3 minutes)
	@$(MAKE) --no-print-directory -j$(JOBS) module-emu module-count
	@scripts/setup.sh cuda-toolkit && $(MAKE) --no-print-directory -j$(JOBS) $(REPORTED) cuda-objects
	$(PYTHON) dev/kernel_report.py --json bench/kernels.json
bench: venv-dev       ## times this program and train_gpt2.py in turn, at the same sizes (half an hour on two cores)
	@$(MAKE) --no-print-directory -j$(JOBS) train_gpt2 module
	$(PYTHON) dev/bench.py
bench-ranks: venv-dev  ## two processes against one, and against torchrun and DDP (20 minutes on two cores)
	@$(MAKE) --no-print-directory -j$(JOBS) train_gpt2
	@scripts/setup.sh mpi
	$(PYTHON) dev/bench_ranks.py
options: train_gpt2   ## python/llmc/options.json and config.py, after a change in the table of options
	./train_gpt2 --options-json > $(BUILD)/options.json && mv $(BUILD)/options.json python/llmc/options.json
	$(PYTHON) dev/generate_options.py
stubs: module         ## python/llmc/_cpu.pyi, the types of the native module, after a change in llmc/bind
	$(PYTHON) dev/generate_stubs.py
TIDIED := $(filter-out llmc/cuda/% llmc/emulator/%,$(wildcard llmc/*/*.cpp llmc/train/*/*.cpp))
tidy: venv-dev headers toolchain  ## clang-tidy: bugs and slow code in the C++ sources (minutes)
	@printf '%s\n' $(TIDIED) | xargs -P $(JOBS) -n 4 bash -c '$(VENV)/bin/clang-tidy -quiet "$$@" -- $(FLAGS) \
	    -DLLMC_ISA=avx2 -idirafter $(shell $(CXX) -print-file-name=include) -Wno-unknown-warning-option \
	    -Wno-unknown-pragmas $$($(PYTHON) -m pybind11 --includes)' tidy
lint: venv-dev        ## style of the sources, types of the package
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(shell git ls-files '*.cpp' '*.h' '*.cu')
	@for f in scripts/*.sh scripts/multi_node/* dev/eval/*.sh .ci/run; do bash -n $$f || exit 1; done

help:                 ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /\1\t/' | expand -t 18
clean:                ## remove what was built (not .venv, data or runs)
	rm -rf $(BUILD) train_gpt2 train_gpt2emu train_gpt2cu python/llmc/_*.so
print-%:              # the value of a variable, for tests
	@echo '$($*)'
