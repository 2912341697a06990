// The operations with a state, token by token: a thread for each part of the state that nothing else changes.
//
// Invariants: one fixed order over tokens and entries, so bits do not depend on how a sequence was cut; the old state is
// read and left as it was.

#include "target.cuh"

// x [tokens, channels], weight [kernel, channels], state [kernel - 1, channels]; next is the new state. A thread for each
// element of out and of next: rows of the state and of x one after the other are what is seen.
KERNEL(causal_conv, Mem<const float> x, Mem<const float> weight, Mem<const float> bias, unsigned has_bias,
       Mem<const float> state, Mem<float> out, Mem<float> next, Size tokens, Size channels, Size kernel) {
    const Size place = thread_number(), before = (kernel - 1) * channels;
    if (place < tokens * channels) {
        const Size channel = place % channels;
        float sum = has_bias ? bias[channel] : 0.0f;
        for (Size tap = 0; tap < kernel; ++tap) {
            const Size seen = place + tap * channels;
            const float value = seen < before ? state[seen] : x[seen - before];
            sum = fmaf(value, weight[tap * channels + channel], sum);
        }
        out[place] = sum;
    }
    if (place < before) {
        const Size seen = place + tokens * channels;
        next[place] = seen < before ? state[seen] : x[seen - before];
    }
}

// query and key [tokens, key_heads, key_dim], value [tokens, value_heads, value_dim], states [value_heads, key_dim,
// value_dim]. A thread for each column of a head's state. Grid [blocks of value_dim, value_heads].
KERNEL(delta_rule, Mem<const float> query, Mem<const float> key, Mem<const float> value, Mem<const float> log_decay,
       Mem<const float> strength, Mem<const float> state, Mem<float> out, Mem<float> next, Size tokens, Size key_heads,
       Size key_dim, Size value_dim) {
    const Size column = thread_number(), heads = gridDim.y, head = blockIdx.y;
    if (column >= value_dim) {
        return;
    }
    const Size own = head * key_dim * value_dim + column;
    for (Size row = 0; row < key_dim; ++row) {
        next[own + row * value_dim] = state[own + row * value_dim];
    }
    for (Size token = 0; token < tokens; ++token) {
        const Size place = token * heads + head;
        const Size shared = (token * key_heads + head / (heads / key_heads)) * key_dim;
        const float decay = expf(log_decay[place]);
        float known = 0.0f;
        for (Size row = 0; row < key_dim; ++row) {
            const float entry = next[own + row * value_dim] * decay;
            next[own + row * value_dim] = entry;
            known = fmaf(entry, key[shared + row], known);
        }
        const float change = (value[place * value_dim + column] - known) * strength[place];
        float sum = 0.0f;
        for (Size row = 0; row < key_dim; ++row) {
            const float entry = fmaf(key[shared + row], change, next[own + row * value_dim]);
            next[own + row * value_dim] = entry;
            sum = fmaf(entry, query[shared + row], sum);
        }
        out[place * value_dim + column] = sum;
    }
}

// x [tokens, heads, head_dim], step [tokens, heads], rate [heads, rates], input and output [tokens, groups, state_dim],
// states [heads, head_dim, state_dim]. A thread for each element of a head.
KERNEL(selective_scan, Mem<const float> x, Mem<const float> step, Mem<const float> rate, Mem<const float> input,
       Mem<const float> output, Mem<const float> skip, Mem<const float> state, Mem<float> out, Mem<float> next,
       Size tokens, Size heads, Size head_dim, Size groups, Size state_dim, Size rates) {
    const Size element = thread_number();
    if (element >= heads * head_dim) {
        return;
    }
    const Size head = element / head_dim, own = element * state_dim;
    for (Size entry = 0; entry < state_dim; ++entry) {
        next[own + entry] = state[own + entry];
    }
    for (Size token = 0; token < tokens; ++token) {
        const float value = x[token * heads * head_dim + element], of_step = step[token * heads + head];
        const Size group = (token * groups + head / (heads / groups)) * state_dim;
        float sum = 0.0f;
        for (Size entry = 0; entry < state_dim; ++entry) {
            const float decay = expf(of_step * rate[head * rates + entry % rates]);
            const float kept = fmaf(next[own + entry], decay, of_step * value * input[group + entry]);
            next[own + entry] = kept;
            sum = fmaf(kept, output[group + entry], sum);
        }
        out[token * heads * head_dim + element] = fmaf(skip[head], value, sum);
    }
}
