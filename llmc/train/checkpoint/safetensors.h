// The safetensors format: 8 bytes of header length, a JSON header {"name": {"dtype", "shape", "data_offsets"},
// "__metadata__": {...}}, raw data. https://huggingface.co/docs/safetensors
// Accepted and refused are the same files as by the library safetensors 0.8.0 (tests/test_foreign_weights.py).
#pragma once
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>
#include "llmc/core/mapped_file.h"
#include "llmc/core/tensor.h"

namespace llmc {

class SafetensorsFile {
public:
    // Maps the file and checks all of its header: lengths, dtypes, shapes, and that the data neither overlaps nor
    // leaves gaps. Throws a data error (exit 3) that names the file and what is wrong.
    explicit SafetensorsFile(const std::string& path);

    struct Entry {
        std::string dtype;  // by the format's name; only read() asks for one that this program has
        std::vector<int64_t> shape;
        size_t begin, end;
    };
    const std::map<std::string, Entry>& entries() const { return entries_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    const std::string& metadata(const std::string& key) const;  // data error if absent
    // Data error if the tensor is absent, has another shape, or is not F32, BF16 or F16.
    const Entry& find(const std::string& name, const std::vector<int64_t>& shape) const;
    // Values as fp32; data error also for a number that is not finite.
    std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape) const;
    bool has(const std::string& name) const { return entries_.contains(name); }
    const std::string path;

private:
    void parse(const std::string& header, size_t data_bytes);
    nlohmann::json parse_header(const std::string& header) const;
    Entry parse_entry(const std::string& name, const nlohmann::json& value, size_t data_bytes) const;
    MappedFile file_;
    size_t data_offset_ = 0;
    std::map<std::string, Entry> entries_;
    std::map<std::string, std::string> metadata_;
};

// Data error that names file and tensor for a number that is not finite.
void check_finite(const std::vector<float>& values, const std::string& path, const std::string& tensor);

struct SafetensorsEntry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    // `count` values from `begin` on. Called while writing, for `piece` values at a time, to limit the memory in use.
    int64_t piece;
    std::function<std::vector<float>(int64_t begin, int64_t count)> values;
};
// A file that several processes write together: one creates it, then each writes some of its tensors, then each finishes.
class SafetensorsWriter {
public:
    // The file with its header and its final size. Throws an Error that names the path, also if the disk is too full.
    static void create(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                       const std::map<std::string, std::string>& metadata);
    SafetensorsWriter(const std::string& path, const std::vector<SafetensorsEntry>& entries);
    ~SafetensorsWriter();
    void write(size_t entry);
    void finish();  // fsync

private:
    std::string path_;
    const std::vector<SafetensorsEntry>& entries_;
    std::vector<size_t> offsets_;
    int fd_ = -1;
};

// Writes and fsyncs. Throws an Error that names the path, for a full disk for example; the file may then be partial.
void write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                       const std::map<std::string, std::string>& metadata);

}  // namespace llmc
