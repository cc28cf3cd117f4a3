#include "llmc/train/options/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

#include "llmc/core/error.h"
#include "llmc/core/version.h"
#include "llmc/train/options/numbers.h"
#include "llmc/train/options/precedence.h"
#include "llmc/train/resume.h"

namespace llmc {
namespace {

using nlohmann::json;

const std::vector<std::string> kCommands = {"sample", "eval", "info"};  // the first word

// "--lr RATE [0.0003]" and "--shuffle, --no-shuffle" instead of CLI11's "--lr TEXT:RATE" and
// "--shuffle,--no-shuffle{false}". A flag that is off by default also has a --no- form, which is not shown.
class Formatter : public CLI::Formatter {
public:
    std::string make_option_name(const CLI::Option* option, bool positional) const override {
        if (positional) return option->get_name(true);
        std::string out;
        for (auto& name : option->get_snames()) out += (out.empty() ? "-" : ", -") + name;
        for (auto& name : option->get_lnames()) {
            const Option* known = find_option(name.starts_with("no-") ? name.substr(3) : name);
            const bool off_by_default = known && known->field.get(Config{}) == false;
            if (out.empty() || !off_by_default) out += (out.empty() ? "--" : ", --") + name;
        }
        return out;
    }
    std::string make_option_opts(const CLI::Option* option) const override {
        if (option->get_type_size() == 0) return "";
        return " " + option->get_type_name();
    }
};

// BLOCKS, or fp32|bf16.
std::string value_name(const Option& option) {
    if (std::string(option.name) == "preset") return "gpt2|gpt2-medium|gpt2-large|gpt2-xl|gpt3-125m|...|gpt3-13b";
    std::string out;
    for (const std::string& choice : option.all_choices()) out += (out.empty() ? "" : "|") + choice;
    if (out.empty()) out = option.unit;
    return out.empty() ? "VALUE" : out;
}

// "transformer blocks [12]": the default, or the rule for it.
std::string help_text(const Option& option) {
    const json value = option.field.get(Config{});
    std::string shown = option.default_text;
    if (shown.empty() && option.field.type == OptionType::flag) shown = value == true ? "on" : "";
    if (shown.empty() && value.is_string()) shown = value.get<std::string>();
    if (shown.empty() && value.is_number()) shown = short_number(value);
    return option.help + (shown.empty() ? "" : " [" + shown + "]");
}

// Adds the options of one scope to a (sub)command. Options that are given are appended to `settings`.
void add_options(CLI::App& app, unsigned scope, std::vector<Setting>& settings) {
    for (const Option& option : options()) {
        if (!(option.scope & scope)) continue;
        const std::string name = option.name, dashed = "--" + name;
        if (!option.takes_value()) {
            app.add_flag_function(
                   dashed + ",!--no-" + name,
                   [&settings, &option, dashed](int64_t count) { settings.push_back({&option, count > 0, dashed}); },
                   help_text(option))
                ->group(option.group);
            continue;
        }
        const bool list = option.field.type == OptionType::list;
        app.add_option(
               dashed,
               [&settings, &option, dashed, list](const CLI::results_t& texts) {
                   settings.push_back(
                       {&option, list ? json(texts) : parse_text(option, texts.front(), dashed), dashed});
                   return true;
               },
               help_text(option))
            ->multi_option_policy(list ? CLI::MultiOptionPolicy::TakeAll : CLI::MultiOptionPolicy::Throw)
            ->group(option.group)
            ->type_name(value_name(option));
    }
}

// Notes the option of a word as given. Usage error if it was given before, unless it is a list.
void add_once(std::map<const CLI::Option*, std::pair<std::string, std::string>>& seen, const CLI::Option* option,
              const std::string& name, const std::string& value) {
    const Option* known = find_option(name.substr(2));
    if (known && known->field.type == OptionType::list) return;
    const auto [before, is_new] = seen.insert({option, {name, value}});
    if (is_new) return;
    const auto& [name_before, value_before] = before->second;
    if (name != name_before) fail_usage(name_before, " and ", name, " are both given: leave one out");
    if (option->get_expected_max() == 0) fail_usage(name, " is given twice: leave one out");
    fail_usage(name, " is given twice, '", value_before, "' and '", value, "': leave one out");
}

// Rewrites the command line so that CLI11 reads it correctly. Otherwise it would use the word after "--lr=" as the
// value, end the options at a "--" that is a value, accept "--shuffle=7" as --shuffle, "sample" in any place, and an
// option twice.
std::vector<std::string> words_of(int argc, char** argv, const CLI::App& train) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const auto is_command = [](const std::string& word) {
        return std::find(kCommands.begin(), kCommands.end(), word) != kCommands.end();
    };
    const bool commanded = !words.empty() && is_command(words[0]);
    const CLI::App& app = commanded ? *train.get_subcommand(words[0]) : train;
    std::vector<std::string> out;
    std::map<const CLI::Option*, std::pair<std::string, std::string>> seen;
    for (size_t i = 0; i < words.size(); ++i) {
        if (words[i] == "--") fail_usage("unknown argument: --; --help lists the options");
        if (is_command(words[i]) && !commanded)
            fail_usage("'", words[i], "' comes first: train_gpt2 ", words[i], " CHECKPOINT, then its options");
        const size_t equals = words[i].find('=');
        const bool joined = equals != std::string::npos;
        const std::string name = words[i].substr(0, equals);
        const CLI::Option* option = nullptr;
        if (name.starts_with("--")) option = app.get_option_no_throw(name);
        if (!option || option->get_expected_max() == 0) {
            if (option && joined) fail_usage(name, " takes no value");
            if (option) add_once(seen, option, name, "");
            out.push_back(words[i]);
            continue;
        }
        if (!joined && ++i == words.size()) fail_usage(name, " needs a value: ", option->get_type_name());
        std::vector<std::string> values = {joined ? words[i].substr(equals + 1) : words[i]};
        add_once(seen, option, name, values[0]);
        const Option* known = find_option(name.substr(2));
        while (known && known->field.type == OptionType::list && i + 1 < words.size() && !words[i + 1].starts_with("-"))
            values.push_back(words[++i]);
        for (const std::string& value : values)
            if (value.empty())
                out.insert(out.end(), {name, value});
            else
                out.push_back(name + "=" + value);
    }
    return out;
}

// With --resume, the options of the run that is continued come first: those that are given win.
void add_stored(std::vector<Setting>& settings) {
    std::string out;
    bool resume = false;
    for (const Setting& s : settings) {
        if (std::string(s.option->name) == "out" && s.value.is_string()) out = s.value.get<std::string>();
        if (std::string(s.option->name) == "resume") resume = s.value == true;
    }
    if (!resume || out.empty()) return;
    std::vector<Setting> all = stored_settings(out);
    for (const std::string& note : leave_out(all, settings, "--resume"))
        std::fprintf(stderr, "note: %s\n", note.c_str());
    all.insert(all.end(), settings.begin(), settings.end());
    settings = std::move(all);
}

void print_and_exit(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::exit(kExitOk);
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
    CommandLine line;
    CLI::App app{
        "train_gpt2: trains a GPT-2 with the maximal update parametrization (muP).\nExample: ./train_gpt2 --config "
        "scripts/first_run.toml --width 256"};
    app.formatter(std::make_shared<Formatter>());
    app.get_formatter()->column_width(46);
    app.set_version_flag("--version", std::string("llmc-mup ") + kVersion, "print the version and exit");
    app.get_option("--help")->description("print this help and exit");
    bool print_config = false, print_options = false;
    std::string config_file;
    app.add_option("--config", config_file, "read options from a TOML file; the command line wins")->type_name("FILE");
    app.add_flag("--print-config", print_config, "print the resolved options as TOML and exit");
    app.add_flag("--options-json", print_options, "print the table of options as JSON and exit");
    app.add_flag("--dry-run", line.dry_run, "print shapes, memory, tokens and the rule of every tensor, and exit");
    app.add_flag("--all", line.all_tensors, "with --dry-run: a row for every block, even if its rules are equal");
    std::vector<Setting> given, given_to_command;
    add_options(app, kRun, given);
    CLI::App* sample = app.add_subcommand(
        "sample", "generate text from a checkpoint: train_gpt2 sample CHECKPOINT --prompt TEXT");
    CLI::App* eval = app.add_subcommand(
        "eval", "loss and accuracy of a checkpoint: train_gpt2 eval CHECKPOINT --val-data GLOB");
    CLI::App* info = app.add_subcommand("info", "what a checkpoint holds: train_gpt2 info CHECKPOINT");
    for (CLI::App* command : {sample, eval, info})
        command->add_option("CHECKPOINT", line.checkpoint, "checkpoint folder, .safetensors file, or a run's --out")
            ->required();
    add_options(*sample, kSample, given_to_command);
    add_options(*eval, kEval, given_to_command);
    app.name(argv[0]);
    std::vector<std::string> words = words_of(argc, argv, app);
    std::reverse(words.begin(), words.end());  // the order that CLI11 expects
    try {
        app.parse(words);
    } catch (const CLI::Success& success) {  // --help, --version
        std::exit(app.exit(success));
    } catch (const CLI::ExtrasError&) {
        const std::string word = app.remaining(true).front();
        if (sample->parsed()) fail_usage("unknown argument: ", word, nearest_argument(word, {}, kSample));
        if (eval->parsed()) fail_usage("unknown argument: ", word, nearest_argument(word, {}, kEval));
        if (info->parsed()) fail_usage("unknown argument: ", word, "; info takes a checkpoint only");
        fail_usage("unknown argument: ", word, nearest_argument(word, kCommands, kRun));
    } catch (const CLI::RequiredError& error) {  // CHECKPOINT is; it may have become a value of the list before it
        const bool list = std::any_of(given_to_command.begin(), given_to_command.end(),
                                      [](const Setting& s) { return s.option->field.type == OptionType::list; });
        fail_usage(error.what(), list ? ": the words after --val-data are its values, so CHECKPOINT stands before it"
                                      : ": give the folder of a run or of a checkpoint, or a .safetensors file");
    } catch (const CLI::ParseError& error) {
        fail_usage(error.what());
    }
    if (line.all_tensors && !line.dry_run)
        fail_usage("--all needs --dry-run: it prints the rules of every block instead of one");
    if (print_options) print_and_exit(options_json().dump(1) + "\n");
    if (info->parsed()) {
        line.command = CommandLine::Command::info;
        return line;
    }
    if (sample->parsed() || eval->parsed()) {
        line.command = sample->parsed() ? CommandLine::Command::sample : CommandLine::Command::eval;
        line.config = make_config(given_to_command, line.given);
        return line;
    }
    std::vector<Setting> settings = config_file.empty() ? std::vector<Setting>{} : read_toml(config_file);
    for (const std::string& note : leave_out(settings, given, "--config " + config_file))
        std::fprintf(stderr, "note: %s\n", note.c_str());
    settings.insert(settings.end(), given.begin(), given.end());
    add_stored(settings);
    line.config = make_config(settings, line.given);
    check_storable(line.config);
    const bool from_checkpoint = !line.config.model.init.empty() || line.config.output.resume;
    if (!from_checkpoint) resolve_heads(line.config);
    if (print_config) {
        if (!from_checkpoint) resolve_batch(line.config);
        print_and_exit(to_toml(line.config));
    }
    return line;
}

}  // namespace llmc
