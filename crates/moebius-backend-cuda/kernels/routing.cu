// Routing and dispatch: from router logits to experts and weights, and from these to the work of the products.
//
// The formulas are those of moebius-router, and so are the bits: every operation is one that IEEE 754 rounds in one way, and
// sums run in the router's order. A block routes a token.
//
// Shapes: logits [tokens, experts]; places are [tokens, top_k] ids, as many weights, and [tokens] marks of rows without
// an answer; an id of `experts` is an empty place.
// Invariants: ties go to the lower id; ids ascend; where a block writes never depends on when it runs.

#include "target.cuh"

constexpr unsigned MAX_EXPERTS = 1024;
constexpr unsigned MAX_PLACES = 64;
// Places that one block sorts.
constexpr unsigned FEW_PAIRS = 256;
// What is no candidate, or no pair.
constexpr Size NOBODY = ~0ull;
constexpr unsigned NO_PAIR = ~0u;

enum Score : unsigned { SOFTMAX, SOFTMAX_OF_CHOSEN, SIGMOID, SIGMOID_OF_CHOSEN, SPARSE_MIXER };
enum Selection : unsigned { BEST, BEST_GROUPS, BEST_GROUPS_BY_TWO, ONE_PER_GROUP };
enum Divisor : unsigned { ONE, SUM_PLUS, SUM_AT_LEAST };
enum FormulaFlags : unsigned { HAS_SELECTION_BIAS = 1, HAS_EXPERT_SCALE = 2, HAS_MASK = 4 };

// A router in numbers, as routing.rs writes them, and its vectors.
struct Formula {
    Size experts, top_k;
    unsigned score, selection;
    Size groups, keep;
    unsigned divisor, flags;
    float jitter, least_divisor, scale, drop_below;
    Mem<const float> bias, expert_scale;
    Mem<const unsigned> mask;

    DEVICE Formula(Mem<const unsigned> words, Mem<const float> bias, Mem<const float> expert_scale,
                   Mem<const unsigned> mask)
        : experts(words[0]), top_k(words[1]), score(words[2]), selection(words[3]), groups(words[4]), keep(words[5]),
          divisor(words[6]), flags(words[7]), jitter(float_of(words[8])), least_divisor(float_of(words[9])),
          scale(float_of(words[10])), drop_below(float_of(words[11])), bias(bias), expert_scale(expert_scale), mask(mask) {}

    DEVICE bool is_masked(Size expert) const { return flags & HAS_MASK && mask[expert] != 0; }
    DEVICE float rank(float score, Size expert) const {
        return flags & HAS_SELECTION_BIAS ? score + bias[expert] : score;
    }
    DEVICE float factor(Size expert) const { return flags & HAS_EXPERT_SCALE ? expert_scale[expert] : 1.0f; }
};

// What a block knows of its token.
struct Choice {
    // Logits, then scores.
    Shared<float, MAX_EXPERTS> scores;
    // The smallest is the best; NOBODY is out.
    Shared<Size, MAX_EXPERTS> keys;
    Shared<Size, MAX_EXPERTS> group_keys;
    Shared<unsigned, MAX_PLACES> ids;
    Shared<float, MAX_PLACES> weights;
};

// e^x, step by step as `exp` in the router's score.rs.
DEVICE float exponential(float x) {
    constexpr double SERIES[] = {1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                                 1.0 / 24.0,     1.0 / 6.0,     0.5,          1.0,         1.0};
    constexpr double ROUNDER = 6755399441055744.0;
    const double wide = x, within = wide < -150.0 ? -150.0 : wide > 150.0 ? 150.0 : wide;
    const double shifted = within * 1.44269504088896340736 + ROUNDER;
    const double r = within - (shifted - ROUNDER) * 0.693147180559945309417;
    double series = 0.0;
    UNROLL
    for (unsigned i = 0; i < 10; ++i) {
        series = series * r + SERIES[i];
    }
    return float(series * double_of((bits_of(shifted) << 52) + (1023ull << 52)));
}

DEVICE float logistic(float logit) { return 1.0f / (1.0f + exponential(0.0f - logit)); }

// The sum of some shared numbers in f64: a chain for each lane, and the chains joined in halves. Every warp computes it.
template <unsigned N>
DEVICE float sum_in_chains(Shared<float, N> &values, Size count) {
    double chain = 0.0;
    for (Size i = threadIdx.x % WARP; i < count; i += WARP) {
        chain += double(values[i]);
    }
    return float(warp_sum(chain));
}

// Shared logits become probabilities.
template <unsigned N>
DEVICE void softmax(Shared<float, N> &values, Size count) {
    float largest = -INFINITE;
    for (Size i = threadIdx.x; i < count; i += THREADS) {
        largest = fmaxf(largest, values[i]);
    }
    largest = block_max(largest);
    for (Size i = threadIdx.x; i < count; i += THREADS) {
        values[i] = exponential(values[i] - largest);
    }
    __syncthreads();
    const float sum = sum_in_chains(values, count);
    __syncthreads();
    for (Size i = threadIdx.x; i < count; i += THREADS) {
        values[i] /= sum;
    }
    __syncthreads();
}

// One integer that orders by descending rank and then by ascending id.
DEVICE Size candidate(float rank, Size id) {
    // Adding +0 turns -0 into +0, which it must tie with.
    const unsigned bits = bits_of(rank + 0.0f);
    return Size(bits >> 31 ? bits : bits ^ 0x7fffffffu) << 32 | id;
}

// Reads the token's logits. Whether the router has an answer to them.
DEVICE bool read_logits(const Formula &formula, Mem<const float> row, Choice &choice) {
    Size illegal = 0;
    float largest = -INFINITE;
    for (Size expert = threadIdx.x; expert < formula.experts; expert += THREADS) {
        const float logit = formula.is_masked(expert) ? -INFINITE : row[expert];
        illegal += logit < INFINITE ? 0 : 1;
        largest = fmaxf(largest, logit);
        choice.scores[expert] = logit;
    }
    largest = block_max(largest);
    return block_sum(illegal) == 0 && largest > -INFINITE;
}

// Takes the best candidate of `keys` out. All threads call it.
DEVICE unsigned take_best(Shared<Size, MAX_EXPERTS> &keys, Size count) {
    Size best = NOBODY;
    for (Size i = threadIdx.x; i < count; i += THREADS) {
        best = keys[i] < best ? keys[i] : best;
    }
    const unsigned id = static_cast<unsigned>(block_min(best));
    if (id % THREADS == threadIdx.x) {
        keys[id] = NOBODY;
    }
    __syncthreads();
    return id;
}

// Takes all experts out that are not of the best groups.
DEVICE void keep_best_groups(const Formula &formula, Choice &choice) {
    const Size size = formula.experts / formula.groups;
    for (Size group = threadIdx.x; group < formula.groups; group += THREADS) {
        float best = -INFINITE, second = -INFINITE;
        for (Size expert = group * size; expert < (group + 1) * size; ++expert) {
            if (choice.keys[expert] != NOBODY) {
                const float rank = formula.rank(choice.scores[expert], expert);
                second = fmaxf(second, fminf(rank, best));
                best = fmaxf(best, rank);
            }
        }
        const bool by_two = formula.selection == BEST_GROUPS_BY_TWO && second > -INFINITE;
        choice.group_keys[group] = candidate(by_two ? best + second : best, group);
    }
    __syncthreads();
    for (Size kept = 0; kept < formula.keep; ++kept) {
        take_best(choice.group_keys, formula.groups);
    }
    // What was taken is what stays.
    for (Size expert = threadIdx.x; expert < formula.experts; expert += THREADS) {
        if (choice.group_keys[expert / size] != NOBODY) {
            choice.keys[expert] = NOBODY;
        }
    }
    __syncthreads();
}

// Fills the places with experts, in any order but for SparseMixer, whose first one is the best.
DEVICE void fill_places(const Formula &formula, Choice &choice) {
    for (Size expert = threadIdx.x; expert < formula.experts; expert += THREADS) {
        const float rank = formula.rank(choice.scores[expert], expert);
        choice.keys[expert] = formula.is_masked(expert) ? NOBODY : candidate(rank, expert);
    }
    __syncthreads();
    if (formula.selection == ONE_PER_GROUP) {
        const Size size = formula.experts / formula.top_k;
        if (threadIdx.x < formula.top_k) {
            Size best = NOBODY;
            for (Size expert = threadIdx.x * size; expert < (threadIdx.x + 1) * size; ++expert) {
                best = choice.keys[expert] < best ? choice.keys[expert] : best;
            }
            choice.ids[threadIdx.x] = static_cast<unsigned>(best);
        }
        __syncthreads();
        return;
    }
    if (formula.selection != BEST) {
        keep_best_groups(formula, choice);
    }
    for (Size place = 0; place < formula.top_k; ++place) {
        const unsigned id = take_best(choice.keys, formula.experts);
        if (threadIdx.x == 0) {
            choice.ids[place] = id;
        }
    }
    __syncthreads();
}

// SparseMixer's weight of `best` among those close enough to it, without `excluded`.
DEVICE float mixer_weight(const Formula &formula, Choice &choice, Size best, Size excluded) {
    const float largest = choice.scores[best];
    if (largest == -INFINITE) {
        return 0.0f;
    }
    float sum = 0.0f;
    for (Size expert = 0; expert < formula.experts; ++expert) {
        const float logit = choice.scores[expert];
        // No number, as 0 / 0 is, is not too far.
        const bool too_far = (largest - logit) / fmaxf(fabsf(logit), largest) > 2.0f * formula.jitter;
        if (expert != excluded && !too_far) {
            sum += exponential(logit - largest);
        }
    }
    return 1.0f / sum;
}

// Moves this thread's place to another one, if it is to stay. All threads call it.
DEVICE void move_place(Choice &choice, bool stays, Size to) {
    const unsigned place = threadIdx.x;
    const unsigned id = stays ? choice.ids[place] : 0;
    const float weight = stays ? choice.weights[place] : 0.0f;
    __syncthreads();
    if (stays) {
        choice.ids[to] = id;
        choice.weights[to] = weight;
    }
    __syncthreads();
}

// Weighs the chosen by their scores, in ascending id.
DEVICE void weigh(const Formula &formula, Choice &choice) {
    const bool is_place = threadIdx.x < formula.top_k;
    Size below = 0;
    if (is_place) {
        const unsigned id = choice.ids[threadIdx.x];
        const float score = choice.scores[id];
        switch (formula.score) {
        case SPARSE_MIXER:
            choice.weights[threadIdx.x] = mixer_weight(formula, choice, id, threadIdx.x == 0 ? NOBODY : choice.ids[0]);
            break;
        case SIGMOID_OF_CHOSEN:
            choice.weights[threadIdx.x] = logistic(score);
            break;
        default:
            choice.weights[threadIdx.x] = score;
        }
        for (Size other = 0; other < formula.top_k; ++other) {
            below += choice.ids[other] < id ? 1 : 0;
        }
    }
    move_place(choice, is_place, below);
    if (formula.score == SOFTMAX_OF_CHOSEN) {
        softmax(choice.weights, formula.top_k);
    }
}

// Drops the chosen that weigh too little beside the heaviest. How many are left.
DEVICE Size drop_light(const Formula &formula, Choice &choice) {
    const auto magnitude = [&](Size place) {
        return fabsf(choice.weights[place] * formula.factor(choice.ids[place]));
    };
    float largest = 0.0f;
    for (Size place = 0; place < formula.top_k; ++place) {
        largest = fmaxf(largest, magnitude(place));
    }
    const float least = formula.drop_below * largest;
    Size left = 0, before = 0;
    for (Size place = 0; place < formula.top_k; ++place) {
        const bool stays = magnitude(place) >= least;
        before += stays && place < threadIdx.x ? 1 : 0;
        left += stays ? 1 : 0;
    }
    move_place(choice, threadIdx.x < formula.top_k && magnitude(threadIdx.x) >= least, before);
    if (left < formula.top_k && formula.score == SOFTMAX_OF_CHOSEN) {
        if (threadIdx.x < left) {
            choice.weights[threadIdx.x] = choice.scores[choice.ids[threadIdx.x]];
        }
        __syncthreads();
        softmax(choice.weights, left);
    }
    return left;
}

// This thread's weight, renormalised and scaled.
DEVICE float finished_weight(const Formula &formula, Choice &choice, Size left) {
    float sum = 0.0f;
    for (Size place = 0; place < left; ++place) {
        sum += choice.weights[place];
    }
    const float divisor = formula.divisor == SUM_PLUS       ? sum + formula.least_divisor
                          : formula.divisor == SUM_AT_LEAST ? fmaxf(sum, formula.least_divisor)
                                                            : 1.0f;
    float weight = choice.weights[threadIdx.x];
    if (divisor != 1.0f && divisor != 0.0f) {
        weight /= divisor;
    }
    if (formula.scale != 1.0f) {
        weight *= formula.scale;
    }
    return formula.flags & HAS_EXPERT_SCALE ? weight * formula.expert_scale[choice.ids[threadIdx.x]] : weight;
}

// Fills a token's places. All threads call it.
DEVICE void route_token(const Formula &formula, Mem<const float> logits, Mem<unsigned> places, Size tokens, Size token,
                        Choice &choice) {
    const Size pairs = tokens * formula.top_k, place = token * formula.top_k + threadIdx.x;
    const bool is_place = threadIdx.x < formula.top_k;
    const bool has_answer = read_logits(formula, logits + token * formula.experts, choice);
    if (threadIdx.x == 0) {
        places[2 * pairs + token] = has_answer ? 0 : 1;
    }
    if (!has_answer) {
        // Experts that are there, so that what follows stays within its memory.
        if (is_place) {
            places[place] = threadIdx.x;
            places[pairs + place] = 0;
        }
        return;
    }
    if (formula.score == SOFTMAX) {
        softmax(choice.scores, formula.experts);
    } else if (formula.score == SIGMOID) {
        for (Size expert = threadIdx.x; expert < formula.experts; expert += THREADS) {
            choice.scores[expert] = logistic(choice.scores[expert]);
        }
        __syncthreads();
    }
    fill_places(formula, choice);
    weigh(formula, choice);
    const Size left = formula.drop_below > 0.0f ? drop_light(formula, choice) : formula.top_k;
    if (is_place) {
        const bool is_taken = threadIdx.x < left;
        places[place] = is_taken ? choice.ids[threadIdx.x] : static_cast<unsigned>(formula.experts);
        places[pairs + place] = is_taken ? bits_of(finished_weight(formula, choice, left)) : 0;
    }
}

// Grid [tokens].
KERNEL(route, Mem<const float> logits, Mem<const unsigned> words, Mem<const float> bias, Mem<const float> expert_scale,
       Mem<const unsigned> mask, Mem<unsigned> places, Size tokens) {
    __shared__ Choice choice;
    route_token(Formula(words, bias, expert_scale, mask), logits, places, tokens, blockIdx.x, choice);
}

// What `route` and `place_pairs` do, in one block, for so few tokens that an expert has one piece. Grid [1].
KERNEL(route_few, Mem<const float> logits, Mem<const unsigned> words, Mem<const float> bias,
       Mem<const float> expert_scale, Mem<const unsigned> mask, Mem<unsigned> places, Mem<unsigned> pieces,
       Mem<unsigned> rows, Mem<unsigned> weights, Mem<unsigned> starts, Mem<unsigned> lists, Size tokens,
       Size most_pieces) {
    __shared__ Choice choice;
    const Formula formula(words, bias, expert_scale, mask);
    const Size pairs = tokens * formula.top_k;
    for (Size token = 0; token < tokens; ++token) {
        route_token(formula, logits, places, tokens, token, choice);
        __syncthreads();
    }
    // Whether a place is the first one of its expert.
    __shared__ Shared<unsigned, FEW_PAIRS> ids, firsts;
    Size experts = 0;
    for (unsigned place = threadIdx.x; place < pairs; place += THREADS) {
        ids[place] = places[place];
    }
    __syncthreads();
    for (unsigned place = threadIdx.x; place < pairs; place += THREADS) {
        unsigned earlier = 0;
        for (unsigned other = 0; other < place; ++other) {
            earlier += ids[other] == ids[place] ? 1 : 0;
        }
        firsts[place] = earlier == 0 && ids[place] < formula.experts ? 1 : 0;
        experts += firsts[place];
    }
    __syncthreads();
    for (unsigned place = threadIdx.x; place < pairs; place += THREADS) {
        const unsigned expert = ids[place];
        if (expert >= formula.experts) {
            lists[place] = NO_PAIR;
            continue;
        }
        // Pairs and experts before this one, and how many pairs this one has.
        unsigned before = 0, experts_before = 0, same = 0, same_before = 0;
        for (unsigned other = 0; other < pairs; ++other) {
            before += ids[other] < expert ? 1 : 0;
            experts_before += ids[other] < expert ? firsts[other] : 0;
            same += ids[other] == expert ? 1 : 0;
            same_before += ids[other] == expert && other < place ? 1 : 0;
        }
        const unsigned pair = before + same_before;
        rows[pair] = static_cast<unsigned>(place / formula.top_k);
        weights[pair] = places[pairs + place];
        lists[place] = pair;
        if (same_before == 0) {
            pieces[3 * experts_before] = expert;
            pieces[3 * experts_before + 1] = before;
            pieces[3 * experts_before + 2] = same;
        }
    }
    for (Size piece = block_sum(experts) + threadIdx.x; piece < most_pieces; piece += THREADS) {
        for (Size i = 0; i < 3; ++i) {
            pieces[3 * piece + i] = 0;
        }
    }
    for (Size token = threadIdx.x; token <= tokens; token += THREADS) {
        starts[token] = static_cast<unsigned>(token * formula.top_k);
    }
}

// counts[expert]: how many places are its. Grid [experts].
KERNEL(count_pairs, Mem<const unsigned> places, Mem<unsigned> counts, Size pairs) {
    Size count = 0;
    for (Size place = threadIdx.x; place < pairs; place += THREADS) {
        count += places[place] == blockIdx.x ? 1 : 0;
    }
    count = block_sum(count);
    if (threadIdx.x == 0) {
        counts[blockIdx.x] = static_cast<unsigned>(count);
    }
}

// The sum of `value` over the threads before this one. All threads call it.
DEVICE Size sum_before(Size value) {
    __shared__ Shared<Size, THREADS> sums;
    sums[threadIdx.x] = value;
    __syncthreads();
    for (unsigned step = 1; step < THREADS; step *= 2) {
        const Size before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    return sums[threadIdx.x] - value;
}

// How many places an expert has, counted by this thread alone.
DEVICE Size places_of(Mem<const unsigned> places, Size pairs, Size expert) {
    Size count = 0;
    for (Size place = 0; place < pairs; ++place) {
        count += places[place] == expert ? 1 : 0;
    }
    return count;
}

// Sorts the pairs by expert: pieces [most_pieces, 3] of at most `most` pairs, of which those beyond the last one are
// empty; for each pair its token and its weight; for each token the start of its list, and the lists. Without `has_counts`
// the threads count for themselves, which a few places take less time for than a launch. Grid [experts].
KERNEL(place_pairs, Mem<const unsigned> places, Mem<const unsigned> counts, unsigned has_counts, Mem<unsigned> pieces,
       Mem<unsigned> rows, Mem<unsigned> weights, Mem<unsigned> starts, Mem<unsigned> lists, Size tokens, Size top_k,
       Size most, Size most_pieces) {
    const Size expert = blockIdx.x, pairs = tokens * top_k;
    const auto count_of = [&](Size other) {
        return has_counts ? Size(counts[other]) : places_of(places, pairs, other);
    };
    Size pairs_before = 0, pieces_before = 0;
    for (Size other = threadIdx.x; other < expert; other += THREADS) {
        const Size of_other = count_of(other);
        pairs_before += of_other;
        pieces_before += (of_other + most - 1) / most;
    }
    pairs_before = block_sum(pairs_before);
    pieces_before = block_sum(pieces_before);
    const Size count = count_of(expert), own_pieces = (count + most - 1) / most;
    const Size written = expert + 1 == gridDim.x ? most_pieces - pieces_before : own_pieces;
    for (Size i = threadIdx.x; i < written; i += THREADS) {
        const Size piece = 3 * (pieces_before + i), first = i * most;
        const bool has_pairs = i < own_pieces;
        pieces[piece] = static_cast<unsigned>(expert);
        pieces[piece + 1] = static_cast<unsigned>(has_pairs ? pairs_before + first : 0);
        pieces[piece + 2] = static_cast<unsigned>(!has_pairs ? 0 : count - first < most ? count - first : most);
    }
    // Each thread takes a run of places, so that the order of tokens is kept.
    const Size run = (pairs + THREADS - 1) / THREADS;
    const Size first = threadIdx.x * run, end = first + run < pairs ? first + run : pairs;
    Size own = 0;
    for (Size place = first; place < end; ++place) {
        own += places[place] == expert ? 1 : 0;
    }
    Size at = pairs_before + sum_before(own);
    for (Size place = first; place < end; ++place) {
        if (places[place] == expert) {
            rows[at] = static_cast<unsigned>(place / top_k);
            weights[at] = places[pairs + place];
            lists[place] = static_cast<unsigned>(at++);
        }
    }
    // What is nobody's falls to the first block.
    for (Size place = threadIdx.x; expert == 0 && place < pairs; place += THREADS) {
        if (places[place] >= gridDim.x) {
            lists[place] = NO_PAIR;
        }
    }
    for (Size token = threadIdx.x; expert == 0 && token <= tokens; token += THREADS) {
        starts[token] = static_cast<unsigned>(token * top_k);
    }
}
