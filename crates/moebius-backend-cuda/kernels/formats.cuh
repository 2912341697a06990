// Weight formats: panels of sixteen rows, as moebius-expert-kernels packs them, one struct each.
//
// A chunk is the columns that a format takes together. `add` adds its products to the sums of a panel's 16 rows with 8
// inputs for each of `TILES` tiles; `value` is one weight, with the bits that the processor's kernels give it.
//
// Formats on tensor cores: weights become bf16, exactly, and an input is the sum of two or three bf16 terms (split_inputs).
// Within 16 columns the order is free, so lane `4 group + member` takes columns `4 member..4 member + 4` as elements
// `2 member, 2 member + 1, 2 member + 8, 2 member + 9` of an mma, and rows `2 group` and `2 group + 1` as its rows `group`
// and `group + 8`: so that what a lane needs lies together.
#pragma once

#include "target.cuh"

constexpr unsigned PANEL = 16;
// Inputs side by side in one tile.
constexpr unsigned TILE = 8;

// Some rows of the inputs of a product.
struct Batch {
    // [rows, cols]
    Mem<const float> x;
    // [terms, rows, padded]: each input as a sum of bf16 values, largest first.
    Mem<const unsigned short> terms;
    // [rows, cols / 16]: the sum of each run of inputs.
    Mem<const float> sums;
    // Which rows; all of them in order, unless `gathered`.
    Mem<const unsigned> numbers;
    bool gathered;
    Size rows, cols;
    // How many of the terms are multiplied.
    unsigned term_count;
    // Rows of heads take turns, and these are of one.
    Size heads, head;
    Size first, count;

    DEVICE Size padded() const { return (cols + 15) / 16 * 16; }
    // Whether a tile has an input; all threads of a block agree.
    DEVICE bool has(unsigned tile) const { return tile * TILE < count; }
    // The row of one of the inputs; those beyond the last one are the last one again, and nobody keeps what they give.
    DEVICE Size row(unsigned input) const {
        const Size at = first + (input < count ? input : count - 1);
        return gathered ? Size(numbers[at]) : at * heads + head;
    }
};

// One panel of weights.
struct Panel {
    Mem<const unsigned char> bytes;
    Size cols;
};

DEVICE unsigned pair_of(float low, float high) { return bits_of(low) >> 16 | (bits_of(high) & 0xffff0000u); }

DEVICE float signed_byte(unsigned word, unsigned index) {
    return float(static_cast<signed char>(word >> (8 * index) & 255));
}

DEVICE float half_at(Mem<const unsigned char> bytes, Size at) {
    return half_to_float(load<unsigned short>(bytes, at));
}

// What a lane reads on the way through a panel on tensor cores.
template <unsigned TILES_>
struct TensorReader {
    static constexpr unsigned TILES = TILES_;
    const Batch &batch;
    unsigned group, member;
    // For each tile, the row of the input that this lane holds, and those of the sums that it holds.
    Size held[TILES], summed[TILES][2];

    DEVICE TensorReader(const Batch &batch, unsigned lane) : batch(batch), group(lane / 4), member(lane % 4) {
        for (unsigned tile = 0; tile < TILES; ++tile) {
            held[tile] = batch.row(tile * TILE + group);
            summed[tile][0] = batch.row(tile * TILE + 2 * member);
            summed[tile][1] = batch.row(tile * TILE + 2 * member + 1);
        }
    }

    // Adds the products of 16 columns. Small terms come first.
    template <unsigned TERMS>
    DEVICE void multiply(const unsigned (&a)[4], Size column, float (&sums)[TILES][4]) const {
        const Size padded = batch.padded();
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            if (!batch.has(tile)) {
                continue;
            }
            UNROLL
            for (unsigned term = TERMS; term-- > 0;) {
                if (term >= batch.term_count) {
                    continue;
                }
                const Size at = (term * batch.rows + held[tile]) * padded + column + 4 * member;
                const uint2 quad = load<uint2>(batch.terms, at);
                const unsigned b[2] = {quad.x, quad.y};
                multiply_add(sums[tile], a, b);
            }
        }
    }

    // Adds the sums of a run, each row of the panel with its scale.
    DEVICE void add_scaled(const float (&run)[TILES][4], float scale, float next_scale, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            UNROLL
            for (unsigned i = 0; i < 4; ++i) {
                sums[tile][i] = fmaf(i < 2 ? scale : next_scale, run[tile][i], sums[tile][i]);
            }
        }
    }

    // Takes away what the minima of a run of `16 * PARTS` columns add up to.
    template <unsigned PARTS>
    DEVICE void subtract(Size run, float minimum, float next_minimum, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            for (unsigned i = 0; i < 2; ++i) {
                const Size first = summed[tile][i] * (batch.cols / 16) + PARTS * run;
                const float total = PARTS == 1 ? batch.sums[first] : batch.sums[first] + batch.sums[first + 1];
                sums[tile][i] = fmaf(-minimum, total, sums[tile][i]);
                sums[tile][2 + i] = fmaf(-next_minimum, total, sums[tile][2 + i]);
            }
        }
    }

    // Where a sum of this lane belongs in [16 rows, 8 inputs].
    DEVICE static unsigned place(unsigned lane, unsigned i) {
        return (2 * (lane / 4) + i / 2) * TILE + 2 * (lane % 4) + i % 2;
    }
};

// What a lane reads on the way through a panel of plain numbers: one row of it, four of a tile's inputs.
template <unsigned TILES_>
struct PlainReader {
    static constexpr unsigned TILES = TILES_;
    const Batch &batch;
    unsigned row;
    Size inputs[TILES][4];

    DEVICE PlainReader(const Batch &batch, unsigned lane) : batch(batch), row(lane % PANEL) {
        for (unsigned tile = 0; tile < TILES; ++tile) {
            for (unsigned i = 0; i < 4; ++i) {
                inputs[tile][i] = batch.row(tile * TILE + 4 * (lane / PANEL) + i) * batch.cols;
            }
        }
    }

    DEVICE void multiply(float weight, Size column, float (&sums)[TILES][4]) const {
        UNROLL
        for (unsigned tile = 0; tile < TILES; ++tile) {
            if (!batch.has(tile)) {
                continue;
            }
            UNROLL
            for (unsigned i = 0; i < 4; ++i) {
                sums[tile][i] = fmaf(weight, batch.x[inputs[tile][i] + column], sums[tile][i]);
            }
        }
    }

    DEVICE static unsigned place(unsigned lane, unsigned i) {
        return lane % PANEL * TILE + 4 * (lane / PANEL) + i;
    }
};

// Sixteen plain numbers for each column.
template <class Stored>
struct Plain {
    template <unsigned TILES>
    using Reader = PlainReader<TILES>;
    static constexpr Size CHUNK = 16;

    DEVICE static Size panel_bytes(Size cols) { return cols * PANEL * sizeof(typename Stored::Bits); }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        constexpr Size width = sizeof(typename Stored::Bits);
        return Stored::widen(load<typename Stored::Bits>(panel.bytes, (col * PANEL + row) * width));
    }
    template <class Reader>
    DEVICE static void add(Panel panel, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Size end = (chunk + 1) * CHUNK < panel.cols ? (chunk + 1) * CHUNK : panel.cols;
        for (Size col = chunk * CHUNK; col < end; ++col) {
            reader.multiply(value(panel, reader.row, col), col, sums);
        }
    }
};

struct StoredF32 {
    using Bits = unsigned;
    DEVICE static float widen(Bits bits) { return float_of(bits); }
};
struct StoredF16 {
    using Bits = unsigned short;
    DEVICE static float widen(Bits bits) { return half_to_float(bits); }
};
using F32 = Plain<StoredF32>;
using F16 = Plain<StoredF16>;

// Sixteen bf16 for each column. Three terms make an input exact.
struct Bf16 {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr Size CHUNK = 16;

    DEVICE static Size panel_bytes(Size cols) { return cols * PANEL * 2; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        return float_of(unsigned(load<unsigned short>(panel.bytes, (col * PANEL + row) * 2)) << 16);
    }
    template <class Reader>
    DEVICE static void add(Panel panel, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        unsigned rows[4];
        UNROLL
        for (unsigned j = 0; j < 4; ++j) {
            const Size col = chunk * CHUNK + 4 * reader.member + j;
            rows[j] = col < panel.cols ? load<unsigned>(panel.bytes, (col * PANEL + 2 * reader.group) * 2) : 0;
        }
        const unsigned a[4] = {
            (rows[0] & 0xffff) | rows[1] << 16,
            rows[0] >> 16 | (rows[1] & 0xffff0000u),
            (rows[2] & 0xffff) | rows[3] << 16,
            rows[2] >> 16 | (rows[3] & 0xffff0000u),
        };
        reader.template multiply<3>(a, chunk * CHUNK, sums);
    }
};

// Weights of 16 columns from two words, four columns each of a row and the next: `value(byte)` of every byte.
template <class Value>
DEVICE void fragment(uint2 words, Value value, unsigned (&a)[4]) {
    a[0] = pair_of(value(words.x & 255), value(words.x >> 8 & 255));
    a[1] = pair_of(value(words.y & 255), value(words.y >> 8 & 255));
    a[2] = pair_of(value(words.x >> 16 & 255), value(words.x >> 24));
    a[3] = pair_of(value(words.y >> 16 & 255), value(words.y >> 24));
}

DEVICE uint2 shifted(uint2 words, unsigned bits, unsigned mask) {
    words.x = words.x >> bits & mask;
    words.y = words.y >> bits & mask;
    return words;
}

constexpr unsigned NIBBLES = 0x0f0f0f0fu;

// Blocks of 32 with a scale: scales, then quads of four columns of sixteen rows.
template <class Code>
struct Blocks32 {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr Size CHUNK = 32;

    DEVICE static Size panel_bytes(Size cols) { return cols / CHUNK * Code::UNIT; }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / CHUNK * Code::UNIT;
        return Code::scale(unit, row) * Code::value(Code::code(unit, row, col % CHUNK));
    }
    template <class Reader>
    DEVICE static void add(Panel panel, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = panel.bytes + chunk * Code::UNIT;
        float run[Reader::TILES][4] = {};
        UNROLL
        for (unsigned half = 0; half < 2; ++half) {
            unsigned a[4];
            fragment(Code::quads(unit, half, reader.member, reader.group), Code::value, a);
            reader.template multiply<2>(a, chunk * CHUNK + 16 * half, run);
        }
        const unsigned row = 2 * reader.group;
        reader.add_scaled(run, Code::scale(unit, row), Code::scale(unit, row + 1), sums);
    }
};

struct CodeQ8 {
    static constexpr Size UNIT = 32 + 8 * 64;
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, 2 * row); }
    DEVICE static float value(unsigned code) { return float(static_cast<signed char>(code)); }
    DEVICE static unsigned code(Mem<const unsigned char> unit, unsigned row, Size col) {
        return unit[32 + col / 4 * 64 + 4 * row + col % 4];
    }
    DEVICE static uint2 quads(Mem<const unsigned char> unit, unsigned half, unsigned member, unsigned group) {
        return load<uint2>(unit, 32 + (4 * half + member) * 64 + 8 * group);
    }
};

// Four bits a weight, after `SCALES` bytes of scales: the first sixteen columns in lower halves of bytes.
template <Size SCALES>
struct Nibbles {
    static constexpr Size UNIT = SCALES + 4 * 64;
    DEVICE static unsigned code(Mem<const unsigned char> unit, unsigned row, Size col) {
        return unit[SCALES + col % 16 / 4 * 64 + 4 * row + col % 4] >> (col < 16 ? 0 : 4) & 15;
    }
    DEVICE static uint2 quads(Mem<const unsigned char> unit, unsigned half, unsigned member, unsigned group) {
        return shifted(load<uint2>(unit, SCALES + member * 64 + 8 * group), 4 * half, NIBBLES);
    }
};

struct CodeQ4 : Nibbles<32> {
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return half_at(unit, 2 * row); }
    DEVICE static float value(unsigned code) { return float(int(code) - 8); }
};

struct CodeMxfp4 : Nibbles<16> {
    // The exponent 0 counts as zero.
    DEVICE static float scale(Mem<const unsigned char> unit, unsigned row) { return float_of(unsigned(unit[row]) << 23); }
    DEVICE static float value(unsigned code) {
        // One bit of fraction and two of exponent; without an exponent the fraction is a half.
        const unsigned exponent = code >> 1 & 3, fraction = code & 1;
        const float magnitude =
            exponent == 0 ? 0.5f * float(fraction) : float((2 + fraction) << exponent) * 0.25f;
        return code & 8 ? 0.0f - magnitude : magnitude;
    }
};

using Q8_0 = Blocks32<CodeQ8>;
using Q4_0 = Blocks32<CodeQ4>;
using Mxfp4 = Blocks32<CodeMxfp4>;

// Blocks of 256 in runs of 32, each with a scale and a minimum. Scales and minima of the block, those of the runs, quads
// of two runs at a time. A chunk is two runs, which share their bytes.
struct Q4K {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr Size CHUNK = 64, BLOCK = 256;
    static constexpr Size MINIMA = 32, RUN_SCALES = 64, RUN_MINIMA = 192, QUADS = 320, UNIT = QUADS + 32 * 64;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, 2 * row) * float(unit[RUN_SCALES + run * PANEL + row]);
    }
    DEVICE static float minimum(Mem<const unsigned char> unit, Size run, unsigned row) {
        return half_at(unit, MINIMA + 2 * row) * float(unit[RUN_MINIMA + run / 2 * 32 + 2 * row + run % 2]);
    }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / 32, in_run = col % 32;
        const unsigned byte = unit[QUADS + (run / 2 * 8 + in_run / 4) * 64 + 4 * row + in_run % 4];
        return scale(unit, run, row) * float(byte >> (4 * (run % 2)) & 15) - minimum(unit, run, row);
    }
    DEVICE static float code(unsigned byte) { return float(byte); }
    template <class Reader>
    DEVICE static void add(Panel panel, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = panel.bytes + chunk / 4 * UNIT;
        const Size pair = chunk % 4;
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned upper = 0; upper < 2; ++upper) {
            float sums_of_run[Reader::TILES][4] = {};
            UNROLL
            for (unsigned half = 0; half < 2; ++half) {
                const Size quad = pair * 8 + 4 * half + reader.member;
                const uint2 words = load<uint2>(unit, QUADS + quad * 64 + 8 * reader.group);
                unsigned a[4];
                fragment(shifted(words, 4 * upper, NIBBLES), code, a);
                reader.template multiply<2>(a, chunk * CHUNK + 32 * upper + 16 * half, sums_of_run);
            }
            const Size run = 2 * pair + upper;
            reader.add_scaled(sums_of_run, scale(unit, run, row), scale(unit, run, row + 1), sums);
            reader.template subtract<2>(2 * chunk + upper, minimum(unit, run, row), minimum(unit, run, row + 1), sums);
        }
    }
};

// Blocks of 256 in sixteen runs of 16, each with a scale. Scales of the block, those of the runs, then for sixteen
// neighbouring columns in four strands the upper two bits and two lots of lower four. A chunk is such a stretch: four runs.
struct Q6K {
    template <unsigned TILES>
    using Reader = TensorReader<TILES>;
    static constexpr Size CHUNK = 64, BLOCK = 256;
    static constexpr Size RUN_SCALES = 32, QUADS = 288, UNIT = QUADS + 16 * 3 * 64;

    DEVICE static Size panel_bytes(Size cols) { return cols / BLOCK * UNIT; }
    DEVICE static float scale(Mem<const unsigned char> unit, Size run, unsigned row) {
        const float of_run = float(static_cast<signed char>(unit[RUN_SCALES + run * PANEL + row]));
        return half_at(unit, 2 * row) * of_run;
    }
    DEVICE static float code(unsigned byte) { return float(int(byte) - 32); }
    DEVICE static float value(Panel panel, unsigned row, Size col) {
        const Mem<const unsigned char> unit = panel.bytes + col / BLOCK * UNIT;
        const Size run = col % BLOCK / 16, in_run = col % 16;
        const Size stretch = 2 * (run / 8) + run % 2, strand = run % 8 / 2;
        const Size quad = QUADS + (stretch * 4 + in_run / 4) * 3 * 64 + 4 * row + in_run % 4;
        const unsigned lower = unit[quad + (1 + strand % 2) * 64] >> (4 * (strand / 2)) & 15;
        const unsigned upper = unit[quad] >> (2 * strand) & 3;
        return scale(unit, run, row) * code(lower | upper << 4);
    }
    template <class Reader>
    DEVICE static void add(Panel panel, Size chunk, const Reader &reader, float (&sums)[Reader::TILES][4]) {
        const Mem<const unsigned char> unit = panel.bytes + chunk / 4 * UNIT;
        const Size stretch = chunk % 4, quad = QUADS + (stretch * 4 + reader.member) * 3 * 64 + 8 * reader.group;
        const uint2 upper = load<uint2>(unit, quad);
        const uint2 lower[2] = {load<uint2>(unit, quad + 64), load<uint2>(unit, quad + 128)};
        const unsigned row = 2 * reader.group;
        UNROLL
        for (unsigned strand = 0; strand < 4; ++strand) {
            uint2 words = shifted(lower[strand % 2], 4 * (strand / 2), NIBBLES);
            const uint2 bits = shifted(upper, 2 * strand, 0x03030303u);
            words.x |= bits.x << 4;
            words.y |= bits.y << 4;
            unsigned a[4];
            fragment(words, code, a);
            const Size run = 8 * (stretch / 2) + 2 * strand + stretch % 2;
            float sums_of_run[Reader::TILES][4] = {};
            reader.template multiply<2>(a, chunk / 4 * BLOCK + run * 16, sums_of_run);
            reader.add_scaled(sums_of_run, scale(unit, run, row), scale(unit, run, row + 1), sums);
        }
    }
};
