// NumPy arrays to and from device tensors, for the bindings. Activations are float32 on the Python side and converted
// to the op's dtype here.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include "llmc/core/error.h"
#include "llmc/core/tensor.h"
#include "llmc/ops/device.h"

namespace llmc::python {

namespace py = pybind11;

// Numbers as float32. Usage error for complex numbers, texts and dates, which NumPy would cast without a word.
struct Floats : py::array_t<float, py::array::c_style | py::array::forcecast> {
    using py::array_t<float, py::array::c_style | py::array::forcecast>::array_t;
};
// The number of elements in memory is that of the shape.
using Ints = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

// A text as a template argument.
template <size_t kSize>
struct Name {
    char text[kSize];
    constexpr Name(const char (&from)[kSize]) { std::copy_n(from, kSize, text); }  // NOLINT: implicit
};
// Token ids as int32. Usage error, with the argument's name, for other numbers than integers and for those beyond
// int32, which NumPy would cast without a word.
template <Name kName>
struct TokenIds : Ints {
    using Ints::Ints;
};
using Shape = std::vector<int64_t>;

// An array of any type, or null if NumPy makes none of the object.
inline py::array any_array(const py::handle& object) {
    try {
        return py::array::ensure(object);
    } catch (const py::error_already_set&) {
        return py::reinterpret_steal<py::array>(nullptr);
    }
}
inline std::string type_name(const py::array& array) { return py::str(py::object(array.dtype())); }

inline Floats real_numbers(const py::handle& object) {
    const py::array any = any_array(object);
    if (any && std::string_view("cUSMm").find(any.dtype().kind()) != std::string_view::npos)
        fail_usage("an array has the type ", type_name(any), ": give real numbers");
    return py::reinterpret_steal<Floats>(any ? Floats::ensure(any).release() : py::handle());
}

inline DType parse_dtype(const std::string& name) {
    if (name == "fp32") return DType::f32;
    if (name == "bf16") return DType::bf16;
    fail_usage("dtype is \"", name, "\", it must be \"fp32\" or \"bf16\"");
}

inline Shape shape_of(const py::array& array) { return Shape(array.shape(), array.shape() + array.ndim()); }

// A device tensor and its memory. Converts to Tensor; an empty one converts to an absent Tensor.
class DeviceArray {
public:
    DeviceArray() = default;
    DeviceArray(const Shape& shape, DType dtype) {
        if (shape.empty() || shape.size() > 4) fail("arrays must have 1 to 4 dimensions, not ", shape.size());
        tensor_.dtype = dtype;
        for (int64_t extent : shape) tensor_.shape[tensor_.rank++] = extent;
        buffer_ = device::Buffer(tensor_.bytes());
        tensor_.data = buffer_.data();
    }
    operator const Tensor&() const { return tensor_; }

    void upload(const float* values) {
        if (tensor_.dtype != DType::bf16) return device::copy_to_device(tensor_.data, values, tensor_.bytes());
        std::vector<bf16> rounded(tensor_.numel());
        for (size_t i = 0; i < rounded.size(); ++i) rounded[i] = to_bf16(values[i]);
        device::copy_to_device(tensor_.data, rounded.data(), tensor_.bytes());
    }
    Floats download() const {
        Floats out(std::vector<py::ssize_t>(tensor_.shape.begin(), tensor_.shape.begin() + tensor_.rank));
        {
            const py::gil_scoped_release without_gil;
            device::synchronize();
        }
        if (tensor_.dtype == DType::bf16) {
            std::vector<bf16> values(tensor_.numel());
            device::copy_to_host(values.data(), tensor_.data, tensor_.bytes());
            for (size_t i = 0; i < values.size(); ++i) out.mutable_data()[i] = to_float(values[i]);
        } else {
            device::copy_to_host(out.mutable_data(), tensor_.data, tensor_.bytes());
        }
        return out;
    }

private:
    device::Buffer buffer_;
    Tensor tensor_;
};

inline DeviceArray input(const Floats& values, DType dtype) {
    DeviceArray array(shape_of(values), dtype);
    array.upload(values.data());
    return array;
}
inline DeviceArray input(const std::optional<Floats>& values, DType dtype) {
    return values ? input(*values, dtype) : DeviceArray();
}

inline DeviceArray input(const Ints& values) {
    DeviceArray array(shape_of(values), DType::i32);
    device::copy_to_device(static_cast<const Tensor&>(array).data, values.data(), size_t(values.nbytes()));
    return array;
}

// For a result that an op overwrites: filled with NaN, which shows elements that the op leaves out or reads.
inline DeviceArray output(const Shape& shape, DType dtype) {
    DeviceArray array(shape, dtype);
    std::vector<float> poison(static_cast<const Tensor&>(array).numel(), std::numeric_limits<float>::quiet_NaN());
    array.upload(poison.data());
    return array;
}

// For a result that an op adds to: starts at `initial`, or at zero.
inline DeviceArray accumulated(const std::optional<Floats>& initial, const Shape& shape) {
    return initial ? input(*initial, DType::f32) : DeviceArray(shape, DType::f32);
}

}  // namespace llmc::python

namespace pybind11::detail {

template <>
struct pyobject_caster<llmc::python::Floats> {
    bool load(handle source, bool) {
        value = llmc::python::real_numbers(source);
        return bool(value);  // false: a TypeError that names the function
    }
    static handle cast(const handle& source, return_value_policy, handle) { return source.inc_ref(); }
    PYBIND11_TYPE_CASTER(llmc::python::Floats, handle_type_name<array_t<float>>::name);
};

template <llmc::python::Name kName>
struct pyobject_caster<llmc::python::TokenIds<kName>> {
    using Type = llmc::python::TokenIds<kName>;
    bool load(handle source, bool) {
        const char* name = kName.text;
        const array any = llmc::python::any_array(source);
        if (!any) llmc::fail_usage(name, " are not an array: give rows of integers of the same length");
        const char kind = any.dtype().kind();
        if (any.size() && kind != 'i' && kind != 'u')  // NumPy's type of [] is float64
            llmc::fail_usage(name, " have the type ", llmc::python::type_name(any), ": give integers");
        if (any.size()) check_range(any, name);
        value = reinterpret_steal<Type>(llmc::python::Ints::ensure(any).release());
        return bool(value);
    }
    static handle cast(const handle& source, return_value_policy, handle) { return source.inc_ref(); }
    PYBIND11_TYPE_CASTER(Type, handle_type_name<array_t<int32_t>>::name);

private:
    static void check_range(const array& any, const char* name) {
        const object low = any.attr("min")(), high = any.attr("max")();
        if (int_(low) < int_(std::numeric_limits<int32_t>::min()) ||
            int_(high) > int_(std::numeric_limits<int32_t>::max()))
            llmc::fail_usage(name, " range from ", std::string(str(low)), " to ", std::string(str(high)),
                             ": token ids are int32, at least 0");
    }
};

}  // namespace pybind11::detail
