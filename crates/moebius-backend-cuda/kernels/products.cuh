// What products with packed weights have in common, however many inputs a block takes: their parameters, what a block works
// on, and what becomes of a sum.
#pragma once

#include "activation.cuh"
#include "formats.cuh"
#include "more_formats.cuh"
#include "terms.cuh"

// Numbered as on the host.
enum Job : unsigned { DENSE, EXPERTS_UP, EXPERTS_DOWN };
enum TaskFlags : unsigned { HAS_GATE = 1, HAS_BIAS = 2, WEIGHTS_INPUT = 4 };

DEVICE Size panels_of(Size rows) { return (rows + PANEL - 1) / PANEL; }

// A launch: every head's rows with its own matrix (a plain product has one head), or one half of experts.
//
//   dense   out[row] = W x[row] + b
//   up      out[pair] = act(gate x) (up x), or act(up x)
//   down    out[pair] = weight (down x[pair])
struct Task {
    unsigned job, flags;
    // Expert, first pair and number of pairs of each block of experts.
    Mem<const unsigned> pieces;
    // With a gate the first matrices are gates.
    Mem<const unsigned char> first, second;
    Mem<const float> pair_weights, first_bias, second_bias;
    Mem<float> out;
    // What is multiplied by the second half, if there are `term_count`: [term_count, pairs, padded].
    Mem<unsigned short> terms;
    Size pairs, width;
    unsigned term_count, kind;
    float limit;
    // The matrix that this block multiplies with.
    Size matrix;

    DEVICE bool has_gate() const { return flags & HAS_GATE; }

    // Takes what is this block's among a grid's first dimension, `most` inputs at most. Whether there is any.
    DEVICE bool begin(Batch &batch, Size most) {
        if (job == DENSE) {
            batch.take_heads_in_turn(most);
            matrix = batch.head;
            return true;
        }
        const Size piece = 3 * Size(blockIdx.x);
        matrix = pieces[piece];
        batch.first = pieces[piece + 1];
        batch.count = pieces[piece + 2];
        return batch.count > 0;
    }

    // How many outputs of an input are written: terms are padded with zeros.
    DEVICE Size written() const { return term_count > 0 ? panels_of(width) * PANEL : width; }

    // Writes an output of one of the batch's inputs.
    DEVICE void finish(const Batch &batch, Size row, Size input, float of_gate, float sum) const {
        const Size pair = batch.first + input;
        if (job == DENSE) {
            out[(pair * batch.heads + batch.head) * width + row] = biased(first_bias, row, sum);
        } else if (job == EXPERTS_DOWN) {
            const float value = biased(first_bias, row, sum);
            out[pair * width + row] = flags & WEIGHTS_INPUT ? value : pair_weights[pair] * value;
        } else {
            const float value = row < width ? activation(row, pair, of_gate, sum) : 0.0f;
            if (term_count > 0) {
                write_terms(terms, pair * written() + row, pairs * written(), term_count, value);
            } else {
                out[pair * width + row] = value;
            }
        }
    }
    DEVICE float activation(Size row, Size pair, float of_gate, float of_up) const {
        const float weight = flags & WEIGHTS_INPUT ? pair_weights[pair] : 1.0f;
        if (!has_gate()) {
            return activated(kind, biased(first_bias, row, weight * of_up));
        }
        return gated(kind, limit, biased(first_bias, row, weight * of_gate), biased(second_bias, row, weight * of_up));
    }
    DEVICE float biased(Mem<const float> bias, Size row, float sum) const {
        return flags & HAS_BIAS ? sum + bias[matrix * width + row] : sum;
    }
};

// The parameters of a kernel for products, and what it makes of them.
#define PRODUCT_PARAMETERS                                                                                          \
    unsigned job, unsigned flags, Mem<const unsigned> pieces, Mem<const unsigned char> first,                       \
        Mem<const unsigned char> second, Mem<const float> x, Mem<const unsigned short> terms, Mem<const float> sums, \
        Size rows, Size cols, unsigned term_count, Size heads, Mem<const unsigned> numbers,                         \
        Mem<const float> pair_weights, Mem<const float> first_bias, Mem<const float> second_bias, Mem<float> out,   \
        Mem<unsigned short> out_terms, Size pairs, Size width, unsigned out_term_count, unsigned kind, float limit
#define TASK                                                                                                        \
    Task{job, flags, pieces, first, second, pair_weights, first_bias, second_bias, out, out_terms, pairs, width,    \
         out_term_count, kind, limit, 0}
#define BATCH Batch{x, terms, sums, numbers, job == EXPERTS_UP, rows, cols, term_count, heads, 0, 0, 0}

// All formats, or the one that a module is for.
#ifdef FORMAT
#define OF_FORMAT(kernels, format, Format) kernels(format, Format)
#define OF_FORMATS(kernels) OF_FORMAT(kernels, FORMAT, FORMAT_TYPE)
#define OF_TENSOR_FORMATS(kernels) OF_FORMATS(kernels)
#else
#define OF_TENSOR_FORMATS(kernels)                                                                                  \
    kernels(f16, F16) kernels(bf16, Bf16) kernels(q8_0, Q8_0) kernels(q4_0, Q4_0) kernels(q4_k, Q4K)                \
        kernels(q6_k, Q6K) kernels(mxfp4, Mxfp4) kernels(q5_1, Q5_1) kernels(q5_k, Q5K) kernels(iq4_xs, Iq4Xs)      \
            kernels(q2_k, Q2K)
#define OF_FORMATS(kernels) kernels(f32, F32) OF_TENSOR_FORMATS(kernels)
#endif
