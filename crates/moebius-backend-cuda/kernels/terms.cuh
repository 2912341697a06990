// Numbers as sums of bf16, which tensor cores multiply.
#pragma once

#include "target.cuh"

// The nearest bf16, ties to even; towards zero where that would be infinite. A NaN stays one.
DEVICE unsigned nearest_bf16(float value) {
    const unsigned bits = bits_of(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) {
        return bits >> 16 | (bits & 0xffff ? 0x40 : 0);
    }
    const unsigned upper = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (upper & 0x7f80) == 0x7f80 ? bits >> 16 : upper;
}

// Writes a number as so many terms, largest first, `stride` apart.
DEVICE void write_terms(Mem<unsigned short> terms, Size at, Size stride, unsigned term_count, float value) {
    for (unsigned term = 0; term < term_count; ++term) {
        const unsigned upper = nearest_bf16(value);
        const bool finite = (upper & 0x7f80) != 0x7f80;
        terms[term * stride + at] = static_cast<unsigned short>(upper);
        value = finite ? value - float_of(upper << 16) : 0.0f;
    }
}
