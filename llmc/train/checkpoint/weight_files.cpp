#include "llmc/train/checkpoint/weight_files.h"

#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/core/json_file.h"

namespace llmc {

namespace fs = std::filesystem;

WeightFiles::WeightFiles(const std::string& p) : path(p) {
    if (path.ends_with(".json")) {
        open_index();
        return;
    }
    const auto& file = files_[path] = std::make_unique<SafetensorsFile>(path);
    for (auto& [name, entry] : file->entries()) where_[name] = file.get();
}

void WeightFiles::open_index() {
    const nlohmann::json index = read_json(path);
    const auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (map == index.end() || !map->is_object() || map->empty())
        fail_data(path, " is no index of safetensors files: it has no object 'weight_map'");
    for (auto& [name, file_name] : map->items()) {
        const std::string text = file_name.is_string() ? file_name.get<std::string>() : "";
        if (text.empty() || text == "." || text == ".." || text.find('\0') != std::string::npos)
            fail_data(path, ": the file of tensor ", name, " is ", file_name.dump(), ", which is not a file name");
        const fs::path file = text;
        if (file.has_parent_path()) fail_data(path, ": the file ", file.string(), " must be in the index's folder");
        const std::string full = (fs::path(path).parent_path() / file).string();
        auto& opened = files_[full];
        if (!opened) opened = std::make_unique<SafetensorsFile>(full);
        if (!opened->has(name)) fail_data(full, " has no tensor '", name, "', which ", path, " places there");
        where_[name] = opened.get();
    }
}

int64_t WeightFiles::bytes() const {
    int64_t sum = 0;
    for (auto& [file, opened] : files_) sum += int64_t(fs::file_size(file));
    return sum;
}

const SafetensorsFile::Entry* WeightFiles::find(const std::string& name) const {
    const auto found = where_.find(name);
    return found == where_.end() ? nullptr : &found->second->entries().at(name);
}

std::vector<std::string> WeightFiles::names() const {
    std::vector<std::string> out;
    for (auto& [name, file] : where_) out.push_back(name);
    return out;
}

const SafetensorsFile& WeightFiles::file_of(const std::string& name) const {
    const auto found = where_.find(name);
    if (found == where_.end()) fail_damaged(path, " has no tensor '", name, "': is it a checkpoint of another model?");
    return *found->second;
}

std::vector<float> WeightFiles::read(const std::string& name, const std::vector<int64_t>& shape) const {
    return file_of(name).read(name, shape);
}

}  // namespace llmc
