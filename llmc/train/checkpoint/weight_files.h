// The tensors of one .safetensors file, or of all files that a model.safetensors.index.json names ("weight_map": name
// of a tensor -> file beside the index), as transformers writes large models.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "llmc/train/checkpoint/safetensors.h"

namespace llmc {

class WeightFiles {
public:
    // Data error for an index or file that cannot be read, or a file without a tensor that the index places there.
    explicit WeightFiles(const std::string& path);

    const std::string path;
    bool has(const std::string& name) const { return where_.contains(name); }
    // Null if there is no such tensor.
    const SafetensorsFile::Entry* find(const std::string& name) const;
    std::vector<std::string> names() const;
    // Data error as of SafetensorsFile::find.
    void check(const std::string& name, const std::vector<int64_t>& shape) const { file_of(name).find(name, shape); }
    std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape) const;
    int64_t bytes() const;                                                    // of all files
    const SafetensorsFile& first() const { return *files_.begin()->second; }  // its metadata is that of the model

private:
    void open_index();
    const SafetensorsFile& file_of(const std::string& name) const;
    std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;  // by path
    std::map<std::string, const SafetensorsFile*> where_;            // by tensor
};

}  // namespace llmc
