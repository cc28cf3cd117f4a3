#include "llmc/mup/rule_table.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "llmc/core/error.h"
#include "llmc/core/format.h"

namespace llmc {
namespace {

using nlohmann::ordered_json;

template <class... Values>
std::string format(const char* pattern, Values... values) {
    char line[512];
    std::snprintf(line, sizeof line, pattern, values...);
    return line;
}

// The scales that differ from their ordinary value: 1, or for a backward factor the factor of the forward pass.
std::string scales_text(const ordered_json& scales) {
    const auto value = [&](const char* key) { return scales.at(key).get<double>(); };
    std::string out = format("scales: embedding %g, attention logits %g, output logits %g", value("embedding"),
                             value("attention"), value("output"));
    struct Other {
        const char *key, *ordinary, *title;
    };
    constexpr Other forward[] = {{"attention_out", nullptr, "attention output"},
                                 {"gelu", nullptr, "GELU temperature"},
                                 {"loss", nullptr, "loss temperature"}};
    constexpr Other backward[] = {{"loss_grad", nullptr, "loss"},
                                  {"output_dinp", "output", "head's input"},
                                  {"output_dweight", "output", "head"},
                                  {"wte_grad", "embedding", "wte"},
                                  {"wpe_grad", "embedding", "wpe"}};
    const auto differs = [&](const Other& o) { return value(o.key) != (o.ordinary ? value(o.ordinary) : 1); };
    for (const Other& o : forward)
        if (differs(o)) out += format(", %s %g", o.title, value(o.key));
    out += "\n";
    std::string gradients;
    for (const Other& o : backward)
        if (differs(o)) gradients += format("%s%s %g", gradients.empty() ? "" : ", ", o.title, value(o.key));
    return gradients.empty() ? out : out + "gradient scales: " + gradients + "\n";
}

// Empty if all factors are 1; one line if all branches have the same factors; otherwise the first and the last block,
// or every block.
std::string residual_text(const ordered_json& residual, bool all) {
    const auto factors = [](const ordered_json& r) {
        return format("%g x + %g f(x); gradient: stream %g, into the branch %g, out of it %g\n", r[0].get<double>(),
                      r[1].get<double>(), r[2].get<double>(), r[3].get<double>(), r[4].get<double>());
    };
    if (residual.empty()) return "";
    bool same = true, plain = true;
    for (auto& r : residual) {
        same &= r == residual.front();
        for (auto& factor : r) plain &= factor == 1;
    }
    if (plain) return "";
    if (same) return "residual branches: " + factors(residual.front());
    std::string out;
    for (size_t i = 0; i < residual.size(); ++i) {
        const bool shown = all || i < 2 || i + 2 >= residual.size();
        if (shown) out += format("residual h.%d.%-5s ", int(i / 2), i % 2 ? "mlp:" : "attn:") + factors(residual[i]);
        if (!shown && i == 2) out += "residual ... (--all shows every block)\n";
    }
    return out;
}

// "mlp.c_fc.weight" of "h.3.mlp.c_fc.weight"; empty outside the blocks.
std::string name_in_block(const std::string& name) {
    return name.starts_with("h.") ? name.substr(name.find('.', 2) + 1) : "";
}

size_t blocks_in(const ordered_json& tensors) {
    std::set<std::string> blocks;
    for (const ordered_json& t : tensors) {
        const std::string name = t["name"];
        if (!name_in_block(name).empty()) blocks.insert(name.substr(0, name.find('.', 2)));
    }
    return blocks.size();
}

// The rows to print: one per tensor, and one h.*.NAME for tensors whose rule is the same in all blocks.
ordered_json folded(const ordered_json& tensors) {
    struct Group {
        const ordered_json* first;
        size_t blocks = 0;
        bool same = true;
    };
    std::map<std::string, Group> groups;  // by the name within a block
    const auto same_rule = [](const ordered_json& a, const ordered_json& b) {
        return std::all_of(a.items().begin(), a.items().end(),
                           [&](const auto& item) { return item.key() == "name" || b.at(item.key()) == item.value(); });
    };
    for (const ordered_json& t : tensors) {
        Group& group = groups.try_emplace(name_in_block(t["name"]), Group{&t}).first->second;
        ++group.blocks;
        group.same = group.same && same_rule(*group.first, t);
    }
    ordered_json rows = ordered_json::array();
    for (const ordered_json& t : tensors) {
        const std::string inner = name_in_block(t["name"]);
        const Group& group = groups.at(inner);
        const bool fold = !inner.empty() && group.blocks > 1 && group.same;
        if (fold && group.first != &t) continue;
        rows.push_back(t);
        if (fold) rows.back()["name"] = "h.*." + inner;
    }
    return rows;
}

std::string row_text(const ordered_json& t, bool unit_scaled) {
    std::string shape;
    for (auto& d : t["shape"]) shape += (shape.empty() ? "" : " x ") + d.dump();
    const auto value = [&](const char* key) { return t.at(key).get<double>(); };
    std::string out = format("%-26s %-7s %-14s %10.4g %10.4g %10.4g %10.4g %10.4g",
                             t["name"].get<std::string>().c_str(), t["role"].get<std::string>().c_str(), shape.c_str(),
                             value("init_std"), value("multiplier"), value("lr"), value("weight_decay"), value("eps"));
    out += unit_scaled ? format(" %10.4g %10.4g\n", value("dinp_multiplier"), value("dweight_multiplier")) : "\n";
    if (value("init_mean") != 0 && value("init_mean") != 1) out += format("    (starts at %.4g)\n", value("init_mean"));
    if (t["zero_rows"].get<int64_t>())
        out += str("    (its first ", plural(t["zero_rows"].get<int64_t>(), "row"), ", the queries, start at zero)\n");
    return out;
}

}  // namespace

std::string rule_table(const ordered_json& p, bool all_tensors) {
    std::string out = format("parametrization %s: width_mult %.10g (base width %d, base head size %d)",
                             p["scheme"].get<std::string>().c_str(), p["width_mult"].get<double>(),
                             p["base_width"].get<int>(), p["base_head_dim"].get<int>());
    if (p["scheme"] == "completep")
        out += format(", depth_mult %.10g (base depth %d)", p["depth_mult"].get<double>(), p["base_depth"].get<int>());
    out += "\n" + scales_text(p["scales"]) + residual_text(p["scales"]["residual"], all_tensors);
    // Under u-mup gradients have separate factors.
    const bool unit_scaled = std::any_of(p["tensors"].begin(), p["tensors"].end(), [](const ordered_json& t) {
        return t["dweight_multiplier"] != t["multiplier"];
    });
    out += format("%-26s %-7s %-14s %10s %10s %10s %10s %10s", "tensor", "role", "shape", "init_std", "multiplier",
                  "lr", "decay", "eps");
    out += unit_scaled ? format(" %10s %10s\n", "dinp", "dweight") : "\n";
    const ordered_json rows = all_tensors ? p["tensors"] : folded(p["tensors"]);
    for (const ordered_json& t : rows) out += row_text(t, unit_scaled);
    if (rows.size() < p["tensors"].size())
        out += str("h.* x ", blocks_in(p["tensors"]), ": every block has these tensors; --all shows each\n");
    return out;
}

}  // namespace llmc
