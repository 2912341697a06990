/* Measures a GGUF file with ik_llama.cpp as llama_bench.py does with llama.cpp, and prints a line of JSON for each:
 *
 *     ik_llama_bench MODEL.gguf THREADS SAMPLES SEED OPTIONS pp512 tg64 tg64x8
 *
 * OPTIONS are words by commas: `repack` (weights interleaved while loading), `merge` (Q, K and V in one product),
 * `no-flash-attention`, `no-fused-experts`; `-` is none. A prompt is one batch and one micro-batch; a step of b
 * sequences is one `llama_decode` of b tokens. Token ids are random. Logits are computed for the last token of a prompt
 * and for every generated one. A sample of each test that does not count comes first, a short one of generation.
 *
 * In C because the structs of llama.h change from commit to commit: side_by_side.py compiles this against the header of
 * the library that it links.
 */

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"
#include "llama.h"

/* Steps of a generation that does not count. */
#define WARM_UP_STEPS 4
/* The context is rounded up to this many tokens. */
#define CELLS 256

struct options {
    bool repack, merge, flash_attention, fused_experts;
};

struct test {
    int prompt, generate, sequences;
};

/* A context of a model and the batch that is decoded in it. */
struct steps {
    struct test test;
    struct llama_context * context;
    struct llama_batch batch;
    int vocab;
    const char * name;
};

static void fail(const char * what, const char * of) {
    fprintf(stderr, "error: %s `%s`\n", what, of);
    exit(1);
}

/* Passes on what the library says of an error, and drops the rest. */
static void log_errors(enum ggml_log_level level, const char * text, void * user_data) {
    (void) user_data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static struct options parse_options(const char * words) {
    struct options options = {.flash_attention = true, .fused_experts = true};
    char word[32];
    int length = 0;
    for (const char * rest = words; *rest != '\0'; rest += length + (rest[length] == ',')) {
        length = (int) strcspn(rest, ",");
        snprintf(word, sizeof word, "%.*s", length, rest);
        if (strcmp(word, "repack") == 0) {
            options.repack = true;
        } else if (strcmp(word, "merge") == 0) {
            options.merge = true;
        } else if (strcmp(word, "no-flash-attention") == 0) {
            options.flash_attention = false;
        } else if (strcmp(word, "no-fused-experts") == 0) {
            options.fused_experts = false;
        } else if (strcmp(word, "-") != 0) {
            fail("unknown option", word);
        }
    }
    return options;
}

static struct test parse_test(const char * name) {
    struct test test = {.sequences = 1};
    bool reads = sscanf(name, "pp%d", &test.prompt) == 1;
    bool known = reads || sscanf(name, "tg%dx%d", &test.generate, &test.sequences) >= 1;
    if (!known || test.prompt + test.generate < 1 || test.sequences < 1) {
        fail("unknown test", name);
    }
    return test;
}

static struct llama_model * load(const char * path, struct options options) {
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.repack_tensors = options.repack;
    params.merge_qkv = options.merge;
    params.flash_attn = options.flash_attention;
    struct llama_model * model = llama_model_load_from_file(path, params);
    if (model == NULL) {
        fail("ik_llama.cpp does not load", path);
    }
    return model;
}

static struct steps start(struct llama_model * model, const char * name, int threads, struct options options) {
    struct test test = parse_test(name);
    int tokens = test.sequences * (test.prompt > 0 ? test.prompt : test.generate);
    int per_step = test.prompt > 0 ? test.prompt : test.sequences;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t) ((tokens + CELLS - 1) / CELLS * CELLS);
    if (params.n_ubatch < (uint32_t) per_step) {
        params.n_ubatch = (uint32_t) per_step;
    }
    params.n_batch = params.n_ubatch;
    params.n_seq_max = (uint32_t) test.sequences;
    params.n_threads = params.n_threads_batch = (uint32_t) threads;
    params.flash_attn = options.flash_attention;
    params.fused_moe_up_gate = options.fused_experts;
    struct steps steps = {.test = test, .vocab = llama_n_vocab(model), .name = name};
    steps.context = llama_init_from_model(model, params);
    if (steps.context == NULL) {
        fail("ik_llama.cpp makes no context for", name);
    }
    steps.batch = llama_batch_init(per_step, 0, 1);
    return steps;
}

/* Makes a random token the batch's token number `at`. */
static void put(struct steps * steps, int at, int position, int sequence, bool wants_logits) {
    steps->batch.token[at] = rand() % steps->vocab;
    steps->batch.pos[at] = position;
    steps->batch.n_seq_id[at] = 1;
    steps->batch.seq_id[at][0] = sequence;
    steps->batch.logits[at] = wants_logits;
}

static void decode(struct steps * steps, int tokens) {
    steps->batch.n_tokens = tokens;
    if (llama_decode(steps->context, steps->batch) != 0) {
        fail("llama_decode fails in", steps->name);
    }
}

/* An error where the last logits are not numbers: then the speed is not that of the model. */
static void check_logits(struct steps * steps) {
    const float * logits = llama_get_logits_ith(steps->context, -1);
    for (int id = 0; id < steps->vocab; id++) {
        if (logits == NULL || !isfinite(logits[id])) {
            fail("logits are missing or not finite in", steps->name);
        }
    }
}

/* Tokens per second of one run of the test, from an empty context; `generate` stands in for its tokens. */
static double sample(struct steps * steps, int generate) {
    struct test test = steps->test;
    llama_kv_cache_clear(steps->context);
    for (int at = 0; at < test.prompt; at++) {
        put(steps, at, at, 0, at + 1 == test.prompt);
    }
    int64_t before = ggml_time_us();
    if (test.prompt > 0) {
        decode(steps, test.prompt);
    }
    for (int position = 0; position < generate; position++) {
        for (int sequence = 0; sequence < test.sequences; sequence++) {
            put(steps, sequence, position, sequence, true);
        }
        decode(steps, test.sequences);
    }
    llama_synchronize(steps->context);
    double seconds = (double) (ggml_time_us() - before) / 1e6;
    check_logits(steps);
    return (test.prompt > 0 ? test.prompt : generate * test.sequences) / seconds;
}

/* Prints the tokens per second of each sample after the one that does not count. */
static void measure(struct steps * steps, int samples) {
    int warm_up = steps->test.generate < WARM_UP_STEPS ? steps->test.generate : WARM_UP_STEPS;
    sample(steps, warm_up);
    printf("{\"system\": \"%s\", \"test\": \"%s\", ", llama_print_system_info(), steps->name);
    printf("\"samples_tokens_per_second\": [");
    for (int number = 0; number < samples; number++) {
        printf("%s%.4f", number > 0 ? ", " : "", sample(steps, steps->test.generate));
    }
    printf("]}\n");
    fflush(stdout);
}

int main(int count, char ** words) {
    if (count < 7) {
        fprintf(stderr, "usage: %s MODEL.gguf THREADS SAMPLES SEED OPTIONS TEST...\n", words[0]);
        return 2;
    }
    int threads = atoi(words[2]), samples = atoi(words[3]);
    struct options options = parse_options(words[5]);
    srand((unsigned) atoi(words[4]));
    llama_log_set(log_errors, NULL);
    llama_backend_init();
    struct llama_model * model = load(words[1], options);
    for (int test = 6; test < count; test++) {
        struct steps steps = start(model, words[test], threads, options);
        measure(&steps, samples);
        llama_batch_free(steps.batch);
        llama_free(steps.context);
    }
    llama_free_model(model);
    llama_backend_free();
    return 0;
}
