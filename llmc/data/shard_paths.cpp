#include "llmc/data/shard_paths.h"

#include <glob.h>

#include <algorithm>
#include <clocale>
#include <filesystem>
#include <set>

#include "llmc/core/error.h"
#include "llmc/core/format.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdvice = "make shards with dev/data/*.py, or correct the path";
constexpr size_t kNamed = 3;  // files named in a message

bool exists(const std::string& path) {
    std::error_code error;
    return fs::exists(path, error);
}

bool is_folder(const std::string& path) {
    std::error_code error;
    return fs::is_directory(path, error);
}

// As a pattern's matches have them in Python.
std::string with_single_slashes(std::string path) {
    path.erase(std::unique(path.begin(), path.end(), [](char a, char b) { return a == '/' && b == '/'; }), path.end());
    return path;
}

bool is_pattern(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

// The length of the longest leading part, up to a slash or the end, that exists.
size_t literal_length(const std::string& text) {
    size_t length = 0;
    while (length < text.size()) {
        const size_t end = std::min(text.find('/', length + 1), text.size());
        if (!exists(text.substr(0, end))) break;
        length = end;
    }
    return length == 0 && text.starts_with('/') ? 1 : length;
}

std::vector<std::string> matches(const std::string& word) {
    const size_t literal = literal_length(word);
    std::string pattern;
    for (const char c : word.substr(0, literal)) {
        if (is_pattern({c}))
            pattern += {'[', c, ']'};
        else
            pattern += c;
    }
    // A character is one of UTF-8, as in Python; otherwise ? would be a byte.
    static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    const locale_t before = utf8 ? uselocale(utf8) : nullptr;
    glob_t found;
    std::vector<std::string> paths;
    if (glob((pattern + word.substr(literal)).c_str(), GLOB_NOESCAPE, nullptr, &found) == 0)
        paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    if (before) uselocale(before);
    std::sort(paths.begin(), paths.end());
    return paths;
}

// Names of files ending with .bin, or of folders, sorted; without hidden ones. An unreadable folder has none.
std::vector<std::string> names_in(const std::string& folder, bool folders) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(folder.empty() ? "." : folder, error), end; !error && it != end;
         it.increment(error)) {
        const std::string name = it->path().filename().string();
        if (!name.starts_with('.') && is_folder(it->path().string()) == folders && (folders || name.ends_with(".bin")))
            names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

// Whether train or val is a word of the name: text_train_000001.bin, tiny_shakespeare_train.bin.
bool is_of_split(const std::string& name, const std::string& split) {
    return ("_" + name.substr(0, name.size() - 4) + "_").find("_" + split + "_") != std::string::npos;
}

std::vector<std::string> shards_in(const std::string& folder, const std::string& split) {
    std::vector<std::string> names = names_in(folder, false);
    std::erase_if(names, [&](const std::string& name) { return !is_of_split(name, split); });
    return names;
}

// a.bin, b.bin, c.bin and 2 more
std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (size_t i = 0; i < std::min(names.size(), kNamed); ++i) text += (i ? ", " : "") + names[i];
    return names.size() > kNamed ? str(text, " and ", names.size() - kNamed, " more") : text;
}

std::string joined(const std::string& folder, const std::string& name) { return (fs::path(folder) / name).string(); }

[[noreturn]] void fail_folder(const std::string& folder, const std::string& option, const std::string& split) {
    std::vector<std::string> folders = names_in(folder, true);
    std::erase_if(folders, [&](const std::string& name) { return shards_in(joined(folder, name), split).empty(); });
    std::string advice = kAdvice;
    if (const std::vector<std::string> files = names_in(folder, false); !files.empty())
        advice = "it has " + listed(files) + ": name the files to take";
    else if (!folders.empty())
        advice = "there are some in " + listed(folders) + ": give such a folder, as '" + joined(folder, folders[0]) +
                 "'";
    fail_data(option, " '", folder, "' is a folder without *_", split, "_*.bin: ", advice);
}

[[noreturn]] void fail_pattern(const std::string& word, const std::string& option) {
    const size_t literal = literal_length(word), slash = word.find('/', literal + 1);
    const std::string folder = word.substr(0, literal), missing = word.substr(0, slash);
    std::string advice = kAdvice;
    if (slash != std::string::npos && !is_pattern(word.substr(literal, slash - literal)))
        advice = "there is no folder '" + missing + "': " + kAdvice;
    else if (const std::vector<std::string> files = names_in(folder, false); !files.empty())
        advice = "'" + (folder.empty() ? "." : folder) + "' has " + listed(files) + ": correct the " +
                 (is_pattern(word.substr(literal)) ? "pattern" : "name");
    fail_data(option, " '", word, "' matches no file: ", advice);
}

}  // namespace

ShardPaths find_shards(const std::vector<std::string>& words, const std::string& option) {
    if (words.empty())
        fail_usage(option,
                   " is missing: name token shards, such as 'data/pystdlib/*_train_*.bin' (dev/data/*.py make them)");
    const std::string split = option == "--val-data" ? "val" : "train";
    std::set<std::string> paths;
    ShardPaths found;
    for (const std::string& given : words) {
        const std::string word = with_single_slashes(given);
        const std::vector<std::string> matching = matches(word);
        if (matching.empty()) fail_pattern(word, option);
        for (const std::string& path : matching) {
            if (!is_folder(path)) {
                paths.insert(path);
                continue;
            }
            const std::vector<std::string> names = shards_in(path, split);
            if (names.empty()) fail_folder(path, option, split);
            for (const std::string& name : names) paths.insert(joined(path, name));
            found.notes.push_back(str(option, " ", path, " is a folder: ", names[0],
                                      names.size() == 1 ? " is taken" : " to " + names.back() + " are taken, ",
                                      names.size() == 1 ? "" : plural(int64_t(names.size()), "file")));
        }
    }
    found.paths = {paths.begin(), paths.end()};
    return found;
}

}  // namespace llmc
