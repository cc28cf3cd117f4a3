#include "llmc/train/checkpoint/other_formats.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <vector>

#include "llmc/core/error.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;

struct Known {
    std::string_view beginning;
    const char* what;
};
constexpr const char* kTorch = "it was written by torch.save";
constexpr Known kKnown[] = {
    {"PK\x03\x04"sv, kTorch},
    {"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"sv, kTorch},  // before PyTorch 1.6
    {"\x89HDF\r\n"sv, "it is an HDF5 file, as TensorFlow and Keras write them"},
    {"GGUF"sv, "it is a GGUF file, llama.cpp's format"},
    {"version https://git-lfs"sv, "it is a pointer of Git LFS instead of the file: run git lfs pull in its folder"},
    {"<!DOCTYPE"sv, "it is a web page: download the file itself"},
    {"<!doctype"sv, "it is a web page: download the file itself"},
    {"<html"sv, "it is a web page: download the file itself"},
};

// Null if the file is none of them.
const char* format_of(const fs::path& path) {
    if (!fs::is_regular_file(path)) return nullptr;  // a pipe would be waited for
    std::ifstream in(path, std::ios::binary);
    std::string beginning(32, '\0');
    in.read(beginning.data(), std::streamsize(beginning.size()));
    beginning.resize(size_t(in.gcount()));
    for (const Known& known : kKnown)
        if (beginning.starts_with(known.beginning)) return known.what;
    return nullptr;
}

// path: what dev/import_hf.py should read
std::string advice(const std::string& what, const fs::path& path) {
    if (what != kTorch) return what;
    return str(what, "; dev/import_hf.py ", path.string(), " OUT makes safetensors of it");
}

}  // namespace

std::string what_file_is(const std::string& path) {
    const char* what = format_of(path);
    return what ? ": " + advice(what, path) : "";
}

std::string what_is_in(const std::string& folder) {
    std::vector<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
        if (file.extension() == ".safetensors") return str(", but ", file.filename().string(), ": name the file");
    for (const fs::path& file : files) {
        const std::string end = file.extension().string();
        if ((end == ".bin" || end == ".pt" || end == ".pth") && format_of(file) == kTorch) {
            const bool several = fs::is_regular_file(fs::path(folder) / "pytorch_model.bin.index.json");
            return str(", but ", file.filename().string(), ": ", advice(kTorch, several ? fs::path(folder) : file));
        }
    }
    if (fs::exists(fs::path(folder) / "log.jsonl")) return ": the run in it has not saved one yet";
    return ": name a checkpoint, such as OUT/checkpoints/step_00000100";
}

}  // namespace llmc
