#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <stdexcept>

#include "llmc/emulator/grid.h"

namespace llmc::emulator {
namespace {

std::string one_of(const std::string& key, const std::string& value, const std::string& a, const std::string& b) {
    if (value != a && value != b)
        throw std::runtime_error("LLMC_EMULATOR: " + key + "=" + value + ": " + a + " or " + b);
    return value;
}

Options from_environment() {
    Options o;
    const char* text = std::getenv("LLMC_EMULATOR");
    std::istringstream words(text ? text : "");
    for (std::string word; words >> word;) {
        const size_t equals = word.find('=');
        const std::string key = word.substr(0, equals), value = equals < word.size() ? word.substr(equals + 1) : "";
        if (key == "workers")
            o.workers = std::atoi(value.c_str());
        else if (key == "shuffle")
            o.shuffle = value != "0";
        else if (key == "seed")
            o.seed = std::strtoull(value.c_str(), nullptr, 10);
        else if (key == "multiprocessors")
            o.multiprocessors = std::atoi(value.c_str());
        else if (key == "capability")
            o.capability = std::atoi(value.c_str());
        else if (key == "memory_mib")
            o.memory = std::strtoull(value.c_str(), nullptr, 10) << 20;
        else if (key == "driver")
            o.driver = value;
        else if (key == "launch_error")
            o.launch_error = std::atoi(value.c_str());
        else if (key == "numerics")
            o.numerics = one_of(key, value, "exact", "hardware");
        else if (key == "streams")
            o.streams_early = one_of(key, value, "early", "late") == "early";
        else if (key == "uuid")
            o.uuid = value;
        else if (key == "name")
            (o.name = value), std::replace(o.name.begin(), o.name.end(), '_', ' ');
        else
            throw std::runtime_error("LLMC_EMULATOR: unknown key '" + key +
                                     "': workers, shuffle, seed, multiprocessors, capability, memory_mib, driver, "
                                     "launch_error, numerics, streams, uuid, name");
    }
    return o;
}

}  // namespace

Options& options() {
    static Options o = from_environment();
    return o;
}

}  // namespace llmc::emulator
