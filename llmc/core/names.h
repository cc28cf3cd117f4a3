// Enums with names: one list of (name, value) per enum, read by name_of() and the table of options.
#pragma once
#include <utility>

namespace llmc {

// Specialised next to each enum: static constexpr std::pair<const char*, E> list[] = {{"adamw", E::adamw}, ...};
template <class E>
struct Names;

template <class E>
concept Named = requires { Names<E>::list; };

template <Named E>
constexpr const char* name_of(E value) {
    for (const auto& [name, named] : Names<E>::list)
        if (named == value) return name;
    return "?";
}

}  // namespace llmc
