#include "llmc/bind/keywords.h"

#include <nlohmann/json.hpp>

#include "llmc/core/error.h"

namespace llmc::python {
namespace {

namespace py = pybind11;

// None, bool, int, float, str, paths, and NumPy scalars. Usage error for other types.
nlohmann::json value_of(const py::handle& object, const std::string& name) {
    if (object.is_none()) return nullptr;
    if (py::isinstance<py::bool_>(object)) return object.cast<bool>();
    if (py::isinstance<py::int_>(object)) {
        int overflow = 0;
        const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
        if (overflow) fail_usage(name, "=", py::str(object).cast<std::string>(), " is out of range");
        return int64_t(value);
    }
    if (py::isinstance<py::float_>(object)) return object.cast<double>();
    if (py::isinstance<py::str>(object)) return object.cast<std::string>();
    if (py::hasattr(object, "__fspath__")) return py::str(object.attr("__fspath__")()).cast<std::string>();
    if (py::hasattr(object, "item") && py::hasattr(object, "ndim") && py::isinstance<py::int_>(object.attr("ndim")) &&
        object.attr("ndim").cast<int>() == 0)
        return value_of(object.attr("item")(), name);  // a NumPy scalar
    fail_usage(name, " is a ", py::str(py::type::of(object).attr("__name__")).cast<std::string>(),
               ": give a number, a text, True or False");
}

}  // namespace

Config config_of(const py::kwargs& keywords, Given& given) {
    std::vector<Setting> settings;
    for (const auto& [key, value] : keywords) {
        const std::string name = key.cast<std::string>();
        const Option* option = find_option(name);
        if (!option || name.find('-') != std::string::npos)
            fail_usage("there is no option '", name, "': the names are train_gpt2's long options with underscores",
                       nearest_option(name, kModel, NameStyle::python));
        if (!(option->scope & kModel))
            fail_usage(name, " is an option of a training run (train_gpt2 --", option->name,
                       "): a model does not take it");
        settings.push_back({option, value_of(value, name), name});
    }
    return make_config(settings, given);
}

ModelParts model_parts(const py::kwargs& keywords) {
    ModelParts parts;
    Given given;
    parts.config = config_of(keywords, given);
    if (!parts.config.model.init.empty()) {
        parts.weights = ModelFile::open(parts.config.model.init);
        take_parametrization(parts.config, given, *parts.weights);
        validate_scheme(parts.config, given);
        parts.shape = take_shape(parts.config, given, *parts.weights);
        for (const std::string& note : assumptions(*parts.weights, given))
            py::module_::import("warnings").attr("warn")(note);
    } else {
        parts.shape = new_shape(parts.config, 0);
    }
    resolve_batch(parts.config);
    return parts;
}

py::object to_python(const nlohmann::ordered_json& json) {
    return py::module_::import("json").attr("loads")(json.dump());
}

}  // namespace llmc::python
