// The table of a parametrization for people: what --dry-run prints.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "llmc/core/error.h"
#include "llmc/mup/parametrization.h"

namespace llmc {
namespace {

using nlohmann::ordered_json;

template <class... Values>
std::string format(const char* pattern, Values... values) {
    char line[512];
    std::snprintf(line, sizeof line, pattern, values...);
    return line;
}

std::string scales_text(const ordered_json& scales) {
    const auto value = [&](const char* key) { return scales.at(key).get<double>(); };
    std::string out = format("scales: embedding %g, attention logits %g, output logits %g", value("embedding"),
                             value("attention"), value("output"));
    const std::pair<const char*, const char*> others[] = {{"attention_out", "attention output"},
                                                          {"gelu", "GELU temperature"},
                                                          {"loss", "loss temperature"},
                                                          {"loss_grad", "gradient of the logits"}};
    for (auto& [key, name] : others)
        if (value(key) != 1) out += format(", %s %g", name, value(key));
    out += "\n";
    // One line where all branches have the same factors, otherwise one for the first and one for the last block.
    const ordered_json& residual = scales.at("residual");
    bool alike = true, plain = true;
    for (auto& r : residual) {
        alike &= r == residual.front();
        for (auto& factor : r) plain &= factor == 1;
    }
    if (plain) return out;
    const auto branch = [&](const char* which, const ordered_json& r) {
        return format("residual %s: %g x + %g f(x); gradient: stream %g, into the branch %g, out of it %g\n", which,
                      r[0].get<double>(), r[1].get<double>(), r[2].get<double>(), r[3].get<double>(),
                      r[4].get<double>());
    };
    if (alike) return out + branch("branches", residual.front());
    const size_t last = residual.size() - 1;
    return out + branch("attention, first block", residual[0]) + branch("mlp, first block", residual[1]) +
           branch("attention, last block", residual[last - 1]) + branch("mlp, last block", residual[last]);
}

}  // namespace

std::string rule_table(const ordered_json& p) {
    std::string out = format("parametrization %s: width_mult %.10g (base width %d, base head size %d)",
                             p["scheme"].get<std::string>().c_str(), p["width_mult"].get<double>(),
                             p["base_width"].get<int>(), p["base_head_dim"].get<int>());
    if (p["scheme"] == "completep")
        out += format(", depth_mult %.10g (base depth %d)", p["depth_mult"].get<double>(), p["base_depth"].get<int>());
    out += "\n" + scales_text(p["scales"]);
    bool unit_scaled = false;  // gradients have factors of their own
    for (auto& t : p["tensors"]) unit_scaled |= t["dweight_multiplier"] != t["multiplier"];
    out += format("%-26s %-7s %-14s %10s %10s %10s %10s %10s", "tensor", "role", "shape", "init_std", "multiplier",
                  "lr", "decay", "eps");
    out += unit_scaled ? format(" %10s %10s\n", "dinp", "dweight") : "\n";
    for (auto& t : p["tensors"]) {
        std::string shape;
        for (auto& d : t["shape"]) shape += (shape.empty() ? "" : " x ") + d.dump();
        const auto value = [&](const char* key) { return t.at(key).get<double>(); };
        out += format("%-26s %-7s %-14s %10.4g %10.4g %10.4g %10.4g %10.4g", t["name"].get<std::string>().c_str(),
                      t["role"].get<std::string>().c_str(), shape.c_str(), value("init_std"), value("multiplier"),
                      value("lr"), value("weight_decay"), value("eps"));
        out += unit_scaled ? format(" %10.4g %10.4g\n", value("dinp_multiplier"), value("dweight_multiplier")) : "\n";
        if (value("init_mean") != 0 && value("init_mean") != 1)
            out += format("    (starts at %.4g)\n", value("init_mean"));
        if (t["zero_rows"].get<int64_t>())
            out += str("    (its first ", t["zero_rows"].get<int64_t>(), " rows, the queries, start at zero)\n");
    }
    return out;
}

}  // namespace llmc
