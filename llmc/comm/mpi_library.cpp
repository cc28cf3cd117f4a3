#include "llmc/comm/mpi_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "llmc/core/error.h"

namespace llmc {
namespace {

// A library of either kind; Handle is the type of MPI_Comm, MPI_Datatype, MPI_Op and MPI_Errhandler.
template <class Handle>
class Library : public MpiLibrary {
public:
    explicit Library(void* library) : library_(library) {
        set(init_, "MPI_Init_thread"), set(finalize_, "MPI_Finalize");
        set(rank_, "MPI_Comm_rank"), set(size_, "MPI_Comm_size"), set(version_, "MPI_Get_library_version");
        set(set_errhandler_, "MPI_Comm_set_errhandler"), set(error_string_, "MPI_Error_string");
        set(all_reduce_, "MPI_Allreduce"), set(reduce_scatter_, "MPI_Reduce_scatter");
        set(all_gather_, "MPI_Allgatherv"), set(gather_, "MPI_Gatherv"), set(broadcast_, "MPI_Bcast"),
            set(barrier_, "MPI_Barrier");
    }

    void init() override {
        int provided = 0;
        constexpr int kFunneled = 1;  // the same number in both
        check(init_(nullptr, nullptr, kFunneled, &provided), "MPI_Init_thread");
        if (provided < kFunneled) fail("this MPI library does not allow threads: ", version());
        check(set_errhandler_(world_, errors_return_), "MPI_Comm_set_errhandler");
    }
    void finalize() override { check(finalize_(), "MPI_Finalize"); }
    int rank() override {
        int out = 0;
        check(rank_(world_, &out), "MPI_Comm_rank");
        return out;
    }
    int size() override {
        int out = 0;
        check(size_(world_, &out), "MPI_Comm_size");
        return out;
    }
    std::string version() override {
        char text[8192] = {};  // MPI_MAX_LIBRARY_VERSION_STRING: 256 and 8192
        int length = 0;
        check(version_(text, &length), "MPI_Get_library_version");
        const std::string all = text;
        const std::string line = all.substr(0, all.find_first_of(",\n"));
        const size_t number = line.find(":\t");  // MPICH: "MPICH Version:\t4.0.2"
        return number == std::string::npos ? line : "MPICH " + line.substr(number + 2);
    }
    void all_reduce(float* data, int count) override {
        check(all_reduce_(in_place_, data, count, float_, sum_, world_), "MPI_Allreduce");
    }
    void reduce_scatter(const float* data, float* own, const std::vector<int>& counts) override {
        check(reduce_scatter_(data, own, counts.data(), float_, sum_, world_), "MPI_Reduce_scatter");
    }
    void all_gather(void* data, const std::vector<int>& counts, size_t element) override {
        const std::vector<int> places = places_of(counts);
        const Handle type = type_of(element);
        check(all_gather_(in_place_, 0, type, data, counts.data(), places.data(), type, world_), "MPI_Allgatherv");
    }
    void gather_to(void* data, const std::vector<int>& counts, size_t element, int root) override {
        const std::vector<int> places = places_of(counts);
        const Handle type = type_of(element);
        const size_t self = size_t(rank());
        char* const own = static_cast<char*>(data) + size_t(places[self]) * element;
        check(gather_(int(self) == root ? in_place_ : own, counts[self], type, data, counts.data(), places.data(), type,
                      root, world_),
              "MPI_Gatherv");
    }
    void broadcast(void* data, int count, size_t element, int root) override {
        check(broadcast_(data, count, type_of(element), root, world_), "MPI_Bcast");
    }
    void barrier() override { check(barrier_(world_), "MPI_Barrier"); }

protected:
    void* symbol(const char* name) const {
        void* found = dlsym(library_, name);
        if (!found) fail("the MPI library has no ", name, ": is LLMC_MPI_LIBRARY the right kind?");
        return found;
    }
    Handle world_{}, float_{}, short_{}, byte_{}, sum_{}, errors_return_{};
    void* in_place_ = nullptr;

private:
    template <class F>
    void set(F& function, const char* name) {
        function = reinterpret_cast<F>(symbol(name));
    }
    static std::vector<int> places_of(const std::vector<int>& counts) {
        std::vector<int> places(counts.size());
        for (size_t i = 1; i < counts.size(); ++i) places[i] = places[i - 1] + counts[i - 1];
        return places;
    }
    Handle type_of(size_t element) const { return element == 4 ? float_ : element == 2 ? short_ : byte_; }
    void check(int status, const char* function) {
        if (status == 0) return;
        char text[8192] = {};
        int length = 0;
        error_string_(status, text, &length);
        fail(function, ": ", text);
    }

    void* library_;
    int (*init_)(int*, char***, int, int*);
    int (*finalize_)();
    int (*rank_)(Handle, int*);
    int (*size_)(Handle, int*);
    int (*version_)(char*, int*);
    int (*set_errhandler_)(Handle, Handle);
    int (*error_string_)(int, char*, int*);
    int (*all_reduce_)(const void*, void*, int, Handle, Handle, Handle);
    int (*reduce_scatter_)(const void*, void*, const int*, Handle, Handle, Handle);
    int (*all_gather_)(const void*, int, Handle, void*, const int*, const int*, Handle, Handle);
    int (*gather_)(const void*, int, Handle, void*, const int*, const int*, Handle, int, Handle);
    int (*broadcast_)(void*, int, Handle, int, Handle);
    int (*barrier_)(Handle);
};

// Of Open MPI 4 and 5: handles are the addresses of objects that the library exports.
class OpenMpi : public Library<void*> {
public:
    explicit OpenMpi(void* library) : Library(library) {
        world_ = symbol("ompi_mpi_comm_world");
        float_ = symbol("ompi_mpi_float"), short_ = symbol("ompi_mpi_short"), byte_ = symbol("ompi_mpi_byte");
        sum_ = symbol("ompi_mpi_op_sum");
        errors_return_ = symbol("ompi_mpi_errors_return");
        in_place_ = reinterpret_cast<void*>(1);
    }
};

// The ABI that MPICH 3.1 and later share with Intel MPI, MVAPICH2 and Cray MPI: https://www.mpich.org/abi/
class Mpich : public Library<int> {
public:
    explicit Mpich(void* library) : Library(library) {
        world_ = 0x44000000;
        float_ = 0x4c00040a, short_ = 0x4c000203, byte_ = 0x4c00010d;
        sum_ = 0x58000003;
        errors_return_ = 0x54000001;
        in_place_ = reinterpret_cast<void*>(-1);
    }
};

}  // namespace

std::unique_ptr<MpiLibrary> MpiLibrary::load(MpiKind kind) {
    const bool open_mpi = kind == MpiKind::open_mpi;
    const char* own = std::getenv("LLMC_MPI_LIBRARY");
    std::vector<std::string> names = open_mpi ? std::vector<std::string>{"libmpi.so.40"}
                                              : std::vector<std::string>{"libmpich.so.12", "libmpi.so.12"};
    if (own && *own) names = {own};
    std::string problem;
    for (const std::string& name : names) {
        // Open MPI loads its own parts, which need its symbols
        if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
            if (open_mpi) return std::make_unique<OpenMpi>(library);
            return std::make_unique<Mpich>(library);
        }
        if (problem.empty()) problem = dlerror();
    }
    fail("several processes on CPUs need ", open_mpi ? "Open MPI" : "MPICH", ": ", problem,
         ": install it (Debian: apt-get install ", open_mpi ? "openmpi-bin" : "mpich",
         "), or name its library in LLMC_MPI_LIBRARY");
}

}  // namespace llmc
