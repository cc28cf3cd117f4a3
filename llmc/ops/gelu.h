// The constants of GELU in its tanh form, which each backend evaluates in its own way:
// u(x) = 0.5 x (1 + tanh z) with z = sqrt(2/pi) (x + 0.044715 x^3) = kGelu1 x + kGelu3 x^3.
// Hendrycks, Gimpel, "Gaussian error linear units", 2016.
#pragma once

namespace llmc {

constexpr float kGelu1 = 0.7978845608f;  // sqrt(2/pi)
constexpr float kGelu3 = kGelu1 * 0.044715f;

}  // namespace llmc
