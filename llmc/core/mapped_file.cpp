#include "llmc/core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "llmc/core/error.h"

namespace llmc {

MappedFile::MappedFile(const std::string& path, const std::string& what) {
    const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK);  // opening a pipe would wait for a writer
    if (fd < 0) fail_data("cannot open the ", what, " ", path, ": ", std::strerror(errno));
    struct stat info;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) size_ = size_t(info.st_size);
    void* map = size_ ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
    const int error = errno;
    close(fd);
    if (map == MAP_FAILED) fail_data("cannot map the ", what, " ", path, " into memory: ", std::strerror(error));
    data_ = map;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
    if (data_) munmap(data_, size_);
}

}  // namespace llmc
