// The Python module of one backend: llmc._cpu, llmc._emu or llmc._cuda, depending on the macro LLMC_MODULE and the
// objects that it is linked with.
#include <pybind11/pybind11.h>

#include <exception>
#include <utility>
#include "llmc/bind/arrays.h"
#include "llmc/bind/bind.h"
#include "llmc/bind/turn.h"
#include "llmc/core/cgroup.h"
#include "llmc/core/error.h"
#include "llmc/core/threads.h"
#include "llmc/ops/device.h"

#ifndef LLMC_MODULE
#define LLMC_MODULE _cpu
#endif
#if LLMC_EMULATED
#include "llmc/emulator/grid.h"
#endif

namespace py = pybind11;

namespace {

void bind_device(py::module_& m) {
    m.def(
        "initialize",
        [](int threads) {
            const llmc::python::TurnWithGil turn;
            llmc::device::initialize(threads);
            if (const std::string slow = llmc::threads_warning(); !slow.empty())
                py::module_::import("warnings").attr("warn")(slow);
        },
        "Chooses the device and the number of host threads (0: one per usable core). Warns of more threads than CPUs.",
        py::arg("threads") = 0);
    m.def("name", &llmc::device::name, "The device's name.");
    m.def("backend", &llmc::device::backend, "\"cpu\", \"cuda\" or \"emulated\".");
    m.def("threads", &llmc::device::threads, "Host threads in use.");
    m.def(
        "cgroup_limits",
        [](const std::string& root) {
            const llmc::CgroupLimits limits = llmc::cgroup_limits(root);
            return py::make_tuple(limits.cpus, limits.memory);
        },
        "What the control groups of this process allow: (CPUs, bytes of memory); infinity and 2^64-1 for no limit.",
        py::arg("root") = "");
    m.def(
        "choose_matmul_kernel",
        [](const std::string& name) {
            for (const auto& [known, kernel] : llmc::Names<llmc::MatmulKernel>::list)
                if (name == known) return llmc::device::choose_matmul_kernel(kernel);
            throw llmc::Error(llmc::kExitUsage, "matmul kernel " + name + ": auto, mma or wgmma");
        },
        "The instructions of a GPU's tensor cores for products in bf16: \"auto\", \"mma\" or \"wgmma\" (Hopper). A CPU "
        "ignores it.",
        py::arg("name"), py::call_guard<llmc::python::TurnWithGil>());
    m.def("memory_total", &llmc::device::memory_total, "Bytes of memory of the device.");
    m.def("scratch_reserved", &llmc::device::scratch_reserved,
          "Bytes of scratch memory that ops share on a GPU; 0 on a CPU.");
    m.def(
        "peak_flops",
        [](const std::string& dtype, double seen) {
            return llmc::device::peak_flops(llmc::python::parse_dtype(dtype), seen);
        },
        "The rate of the backend's own matmul on large square matrices, FLOP/s, measured once. If `seen`, a rate "
        "reached "
        "elsewhere, is higher, it is measured again; the result is at least `seen`.",
        py::arg("dtype") = "fp32", py::arg("seen") = 0.0, py::call_guard<llmc::python::Turn>());
}

// llmc::Error as the package's exceptions: UsageError, DataError, or Error with the exit code.
void raise_error(std::exception_ptr thrown) {
    try {
        std::rethrow_exception(std::move(thrown));
    } catch (const llmc::Error& error) {
        const py::module_ errors = py::module_::import("llmc.errors");
        const py::object type = errors.attr(error.exit_code == llmc::kExitUsage  ? "UsageError"
                                            : error.exit_code == llmc::kExitData ? "DataError"
                                                                                 : "Error");
        const py::object code = errors.attr("ExitCode")(int(error.exit_code));
        PyErr_SetObject(type.ptr(), type(error.what(), code).ptr());
    }
}

#if LLMC_EMULATED
void bind_emulator(py::module_& m) {
    m.def(
        "schedule",
        [](bool shuffle, uint64_t seed, int workers) {
            llmc::device::synchronize();
            llmc::emulator::Options& o = llmc::emulator::options();
            o.shuffle = shuffle, o.seed = seed, o.workers = workers;
        },
        "Sets the order in which CUDA threads run (in order or random) and the number of host threads (0: all).",
        py::arg("shuffle") = false, py::arg("seed") = 1, py::arg("workers") = 0,
        py::call_guard<llmc::python::TurnWithGil>());
}
#endif

}  // namespace

PYBIND11_MODULE(LLMC_MODULE, m) {
    m.doc() = "llmc-µP: one backend's ops and model";
    m.attr("Error") = py::module_::import("llmc.errors").attr("Error");
    py::register_local_exception_translator(raise_error);
    bind_device(m);
    llmc::bind_ops(m);
    llmc::bind_text(m);
    llmc::bind_model(m);
    llmc::bind_benchmarks(m);
    llmc::bind_cost(m);
#if LLMC_EMULATED
    bind_emulator(m);
#endif
}
