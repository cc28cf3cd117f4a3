// A whole file, read-only, in memory.
#pragma once
#include <cstddef>
#include <string>

namespace llmc {

class MappedFile {
public:
    // Data error naming `what` and the path if it cannot be opened or mapped; a folder, device or pipe has size 0.
    MappedFile(const std::string& path, const std::string& what);
    MappedFile(MappedFile&& other) noexcept;
    ~MappedFile();

    const char* data() const { return static_cast<const char*>(data_); }
    size_t size() const { return size_; }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace llmc
