// Non-linearities, numbered as `Activation` is on the host.
#pragma once

#include "target.cuh"

enum ActivationKind : unsigned { SILU, GELU, GELU_TANH, RELU_SQUARED, CLAMPED_SWIGLU };

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// `activation(x)`, for those that need no gate.
DEVICE float activated(unsigned kind, float x) {
    switch (kind) {
    case SILU:
        return x * sigmoid(x);
    case GELU:
        return x * (0.5f * erfcf(x * -0.707106781f));
    case GELU_TANH: {
        // (1 + tanh(y)) / 2 is sigmoid(2 y), which keeps its digits where tanh is near -1.
        const float y = 0.797884561f * x * (1.0f + 0.044715f * x * x);
        return x * sigmoid(2.0f * y);
    }
    default: {
        const float positive = fmaxf(x, 0.0f);
        return positive * positive;
    }
    }
}

// `activation(gate) up`; of the clamped one, what gpt-oss makes of both.
DEVICE float gated(unsigned kind, float limit, float gate, float up) {
    if (kind == CLAMPED_SWIGLU) {
        const float g = fminf(gate, limit);
        const float u = fminf(fmaxf(up, -limit), limit);
        return (u + 1.0f) * (g * sigmoid(1.702f * g));
    }
    return activated(kind, gate) * up;
}
