#include "llmc/emulator/numerics.h"

#include "llmc/emulator/grid.h"

namespace llmc::emulator {

bool hardware_numerics() {
    static const bool hardware = options().numerics == "hardware";
    return hardware;
}

float tensor_core_sum(float acc, const float* a, const float* b, int count, int a_step, int b_step) {
    constexpr int kBits = 25;  // of an aligned term
    const auto term = [&](int k) { return k < count ? double(a[k * a_step]) * double(b[k * b_step]) : double(acc); };
    double largest = 0;
    bool finite = true;
    for (int k = 0; k <= count; ++k) {
        finite = finite && std::isfinite(term(k));
        largest = std::max(largest, std::fabs(term(k)));
    }
    if (!finite) {
        for (int k = 0; k < count; ++k) acc += float(term(k));
        return acc;
    }
    if (largest == 0) return 0;
    int exponent;
    std::frexp(largest, &exponent);
    const double unit = std::ldexp(1.0, exponent - kBits);
    double sum = 0;
    for (int k = 0; k <= count; ++k) sum += std::trunc(term(k) / unit) * unit;
    const float rounded = float(sum);
    return std::fabs(double(rounded)) > std::fabs(sum) ? std::nextafterf(rounded, 0.0f) : rounded;
}

}  // namespace llmc::emulator
