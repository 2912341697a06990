use moebius_expert_kernels::{AttentionCall, AttentionInputs, AttentionShape, KernelError, Kernels};

use crate::support::{all_kernels, assert_close, bits, pool, values};

const SHAPE: AttentionShape = AttentionShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 20,
    value_dim: 20,
    capacity: 64,
    first_position: 0,
    scale: 0.3,
    window: None,
    chunk: None,
    value_stride: 20,
};

/// Queries for `tokens` rows, filled caches, and sinks if they are asked for.
struct Data {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    sinks: Option<Vec<f32>>,
}

impl Data {
    fn new(shape: &AttentionShape, tokens: usize) -> Self {
        Self {
            queries: values(tokens * shape.heads * shape.head_dim, 1),
            keys: values(shape.kv_heads * shape.capacity * shape.head_dim, 2),
            values: values(value_len(shape), 3),
            sinks: None,
        }
    }

    fn inputs(&self) -> AttentionInputs<'_> {
        let sinks = self.sinks.as_deref();
        AttentionInputs { queries: &self.queries, keys: &self.keys, values: &self.values, sinks }
    }
}

/// The numbers from the first value to the last.
fn value_len(shape: &AttentionShape) -> usize {
    shape.kv_heads * shape.capacity * shape.value_stride - (shape.value_stride - shape.value_dim)
}

fn run(kernels: &Kernels, threads: usize, inputs: &AttentionInputs<'_>, shape: &AttentionShape) -> Vec<f32> {
    let tokens = inputs.queries.len() / (shape.heads * shape.head_dim);
    let mut out = vec![f32::NAN; tokens * shape.heads * shape.value_dim];
    kernels.attention(&pool(threads), inputs, shape, &mut out).expect("shapes fit");
    out
}

/// Visits every position and masks, unlike the kernel, which visits what it sees.
fn oracle(data: &Data, shape: &AttentionShape) -> Vec<f64> {
    let mut out = Vec::new();
    for (row, query) in data.queries.chunks(shape.head_dim).enumerate() {
        let (token, head) = (row / shape.heads, row % shape.heads);
        let kv_head = head * shape.kv_heads / shape.heads;
        let position = shape.first_position + token;
        let mut total = data.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
        let mut sums = vec![0.0; shape.value_dim];
        for j in 0..shape.capacity {
            let seen = j <= position && shape.window.is_none_or(|window| j + window > position);
            if seen && shape.chunk.is_none_or(|chunk| j / chunk == position / chunk) {
                let slot = kv_head * shape.capacity + j;
                let key = &data.keys[slot * shape.head_dim..][..shape.head_dim];
                let score: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let e = (f64::from(shape.scale) * score).exp();
                total += e;
                let value = &data.values[slot * shape.value_stride..][..shape.value_dim];
                sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += e * f64::from(*v));
            }
        }
        out.extend(sums.into_iter().map(|sum| sum / total));
    }
    out
}

fn check(shape: &AttentionShape, tokens: usize) {
    check_data(&Data::new(shape, tokens), shape);
}

fn check_data(data: &Data, shape: &AttentionShape) {
    let tokens = data.queries.len() / (shape.heads * shape.head_dim);
    let expected = oracle(data, shape);
    for kernels in all_kernels() {
        let out = run(&kernels, 2, &data.inputs(), shape);
        let case = format!("{} {tokens} tokens {shape:?}", kernels.name());
        assert_close(&out, &expected, &vec![1.0; expected.len()], 2e-6, &case);
    }
}

#[test]
fn attention_agrees_with_f64_on_awkward_widths() {
    for (head_dim, value_dim) in [(1, 1), (2, 3), (16, 16), (17, 33), (31, 64), (64, 80), (128, 129)] {
        check(&AttentionShape { head_dim, value_dim, value_stride: value_dim, ..SHAPE }, 19);
    }
}

#[test]
fn heads_share_keys_in_groups() {
    for (heads, kv_heads) in [(1, 1), (4, 4), (4, 1), (6, 3), (8, 2)] {
        check(&AttentionShape { heads, kv_heads, ..SHAPE }, 5);
    }
}

#[test]
fn a_window_hides_what_lies_before_it() {
    for window in [1, 2, 7, 16, 40, 1000] {
        check(&AttentionShape { window: Some(window), first_position: 9, ..SHAPE }, 33);
    }
}

#[test]
fn a_chunk_hides_what_lies_before_it() {
    for chunk in [1, 2, 7, 16, 1000] {
        for window in [None, Some(5)] {
            check(&AttentionShape { chunk: Some(chunk), window, first_position: 9, ..SHAPE }, 33);
        }
    }
    let long = AttentionShape { capacity: 800, chunk: Some(300), ..SHAPE };
    for (first_position, tokens) in [(0, 700), (299, 2), (601, 1)] {
        check(&AttentionShape { first_position, ..long }, tokens);
    }
}

#[test]
fn sinks_take_their_share_of_each_head() {
    for (heads, kv_heads, tokens) in [(4, 2, 19), (20, 1, 3), (3, 3, 17)] {
        let shape = AttentionShape { heads, kv_heads, window: Some(12), first_position: 20, ..SHAPE };
        let mut data = Data::new(&shape, tokens);
        for magnitude in [1.0, 8.0, 30.0] {
            data.sinks = Some(values(heads, 4).iter().map(|sink| magnitude * sink).collect());
            check_data(&data, &shape);
        }
    }
}

#[test]
fn a_sink_far_below_every_score_changes_no_bit_and_one_far_above_leaves_nothing() {
    let mut data = Data::new(&SHAPE, 9);
    for kernels in all_kernels() {
        data.sinks = None;
        let without = run(&kernels, 1, &data.inputs(), &SHAPE);
        for low in [-1e30, f32::NEG_INFINITY] {
            data.sinks = Some(vec![low; 4]);
            assert_eq!(bits(&run(&kernels, 1, &data.inputs(), &SHAPE)), bits(&without), "{}", kernels.name());
        }
        data.sinks = Some(vec![1e30; 4]);
        assert!(run(&kernels, 1, &data.inputs(), &SHAPE).iter().all(|&value| value == 0.0));
    }
}

#[test]
fn values_may_be_columns_of_the_keys() {
    for (heads, head_dim, value_dim, capacity) in [(4, 20, 17, 64), (16, 576, 512, 300), (40, 72, 64, 270)] {
        let first_position = capacity - 3;
        let shape = AttentionShape {
            heads,
            kv_heads: if heads == 4 { 2 } else { 1 },
            head_dim,
            value_dim,
            capacity,
            first_position,
            scale: 0.05,
            value_stride: head_dim,
            ..SHAPE
        };
        let mut data = Data::new(&shape, 3);
        data.values = data.keys[..value_len(&shape)].to_vec();
        check_data(&data, &shape);
        let dense = AttentionShape { value_stride: value_dim, ..shape };
        let values: Vec<f32> = data.keys.chunks(head_dim).flat_map(|key| key[..value_dim].to_vec()).collect();
        for kernels in all_kernels() {
            let inputs = AttentionInputs { values: &values, ..data.inputs() };
            let (copied, in_place) =
                (run(&kernels, 2, &inputs, &dense), run(&kernels, 2, &data.inputs(), &shape));
            assert_eq!(bits(&copied), bits(&in_place), "{}", kernels.name());
        }
    }
}

#[test]
fn every_start_and_length_up_to_the_capacity_is_allowed() {
    for (first_position, tokens) in [(0, 0), (0, 1), (63, 1), (0, 64), (31, 33), (17, 16)] {
        check(&AttentionShape { first_position, ..SHAPE }, tokens);
    }
}

#[test]
fn keys_of_many_blocks_agree_with_f64() {
    let long = AttentionShape { capacity: 800, head_dim: 24, ..SHAPE };
    for (first_position, tokens) in [(0, 600), (255, 2), (256, 1), (767, 33), (500, 40)] {
        for window in [None, Some(1), Some(200), Some(256), Some(300)] {
            check(&AttentionShape { first_position, window, ..long }, tokens);
        }
    }
    for (heads, kv_heads) in [(17, 1), (20, 1), (48, 2), (3, 1)] {
        check(&AttentionShape { heads, kv_heads, first_position: 510, ..long }, 5);
    }
}

#[test]
fn who_computes_a_block_of_keys_does_not_change_a_bit() {
    for (first_position, tokens, window) in [(700, 1, None), (700, 9, Some(400)), (0, 790, None)] {
        let shape = AttentionShape { capacity: 800, first_position, window, ..SHAPE };
        let mut data = Data::new(&shape, tokens);
        data.sinks = window.map(|_| values(4, 5));
        for kernels in all_kernels() {
            let alone = run(&kernels, 1, &data.inputs(), &shape);
            for threads in [2, 16] {
                let together = run(&kernels, threads, &data.inputs(), &shape);
                assert_eq!(bits(&together), bits(&alone), "{} {threads} threads", kernels.name());
            }
        }
    }
}

#[test]
fn chunks_threads_and_capacity_do_not_change_a_bit() {
    for (window, capacity, tokens) in
        [(None, 64, 50), (Some(11), 64, 50), (None, 700, 690), (Some(300), 700, 690)]
    {
        let shape = AttentionShape { window, capacity, ..SHAPE };
        let data = Data::new(&shape, tokens);
        let token_len = shape.heads * shape.head_dim;
        for kernels in all_kernels() {
            let whole = run(&kernels, 1, &data.inputs(), &shape);
            for threads in [2, 3] {
                assert_eq!(bits(&run(&kernels, threads, &data.inputs(), &shape)), bits(&whole));
            }
            for chunk in [1, 7, 16, 33].map(|chunk| chunk * tokens / 50) {
                let mut chunked = Vec::new();
                for (index, queries) in data.queries.chunks(chunk * token_len).enumerate() {
                    let shape = AttentionShape { first_position: index * chunk, ..shape };
                    let inputs = AttentionInputs { queries, ..data.inputs() };
                    chunked.extend(run(&kernels, 2, &inputs, &shape));
                }
                assert_eq!(bits(&chunked), bits(&whole), "{} chunks of {chunk}", kernels.name());
            }
            let small = AttentionShape { capacity: tokens, ..shape };
            let cut = |cache: &[f32]| -> Vec<f32> {
                cache.chunks(capacity * 20).flat_map(|head| head[..tokens * 20].to_vec()).collect()
            };
            let (keys, values) = (cut(&data.keys), cut(&data.values));
            let inputs = AttentionInputs { keys: &keys, values: &values, ..data.inputs() };
            assert_eq!(bits(&run(&kernels, 2, &inputs, &small)), bits(&whole));
        }
    }
}

#[test]
fn what_lies_beyond_the_last_position_is_never_read() {
    let shape = AttentionShape { first_position: 3, ..SHAPE };
    let mut data = Data::new(&shape, 4);
    let expected = run(&Kernels::detect(), 1, &data.inputs(), &shape);
    for cache in [&mut data.keys, &mut data.values] {
        for head in cache.chunks_mut(shape.capacity * 20) {
            head[7 * 20..].fill(f32::NAN);
        }
    }
    assert_eq!(bits(&run(&Kernels::detect(), 1, &data.inputs(), &shape)), bits(&expected));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let data = Data::new(&SHAPE, 2);
    let run = |shape: AttentionShape| {
        Kernels::detect().attention(&pool(1), &data.inputs(), &shape, &mut vec![0.0; 2 * 80]).err()
    };
    assert_eq!(run(SHAPE), None);
    let heads = AttentionShape { kv_heads: 3, ..SHAPE };
    assert_eq!(run(heads), Some(KernelError::NotAMultiple { what: "heads", got: 4, of: 3 }));
    let zero = AttentionShape { window: Some(0), ..SHAPE };
    assert_eq!(run(zero), Some(KernelError::ZeroDimension { what: "window" }));
    let zero = AttentionShape { chunk: Some(0), ..SHAPE };
    assert_eq!(run(zero), Some(KernelError::ZeroDimension { what: "chunk" }));
    let narrow = AttentionShape { value_stride: 19, ..SHAPE };
    assert_eq!(run(narrow), Some(KernelError::OutOfRange { what: "value_dim", limit: 20, got: 20 }));
    let wide = AttentionShape { value_stride: 21, ..SHAPE };
    assert_eq!(run(wide), Some(KernelError::Length { what: "values", expected: 2687, got: 2560 }));
    let inputs = AttentionInputs { sinks: Some(&[0.0; 3]), ..data.inputs() };
    let few = Kernels::detect().attention(&pool(1), &inputs, &SHAPE, &mut [0.0; 2 * 80]);
    assert_eq!(few, Err(KernelError::Length { what: "sinks", expected: 4, got: 3 }));
    let late = AttentionShape { first_position: 63, ..SHAPE };
    let what = "first_position + tokens";
    assert_eq!(run(late), Some(KernelError::OutOfRange { what, limit: 65, got: 65 }));
    let capacity = AttentionShape { capacity: 63, ..SHAPE };
    assert_eq!(run(capacity), Some(KernelError::Length { what: "keys", expected: 2520, got: 2560 }));
}

#[test]
fn calls_together_have_the_bits_of_each_alone() {
    // Text before, tokens, capacity: among few threads tiles are shared out, among many blocks of keys.
    let sizes = [(0, 40, 64), (700, 1, 701), (3, 0, 64), (10, 17, 300), (511, 2, 600)];
    let shape = |(first_position, _, capacity)| AttentionShape { first_position, capacity, ..SHAPE };
    let data: Vec<Data> = sizes.iter().map(|&size| Data::new(&shape(size), size.1)).collect();
    for kernels in all_kernels() {
        for threads in [1, 2, 16] {
            let mut outs: Vec<Vec<f32>> =
                data.iter().map(|data| vec![f32::NAN; data.queries.len()]).collect();
            let calls = data.iter().zip(&sizes).zip(&mut outs);
            let calls = calls.map(|((data, &size), out)| AttentionCall {
                inputs: data.inputs(),
                shape: shape(size),
                out,
            });
            kernels.attention_each(&pool(threads), calls.collect()).expect("shapes fit");
            for ((data, &size), out) in data.iter().zip(&sizes).zip(&outs) {
                let alone = run(&kernels, 1, &data.inputs(), &shape(size));
                assert_eq!(bits(out), bits(&alone), "{} {threads} threads, {size:?}", kernels.name());
            }
        }
    }
}

#[test]
fn a_call_that_does_not_fit_keeps_the_others_from_running() {
    let data = Data::new(&SHAPE, 2);
    let (mut first, mut second) = (vec![7.0; 160], vec![7.0; 160]);
    let late = AttentionShape { first_position: 63, ..SHAPE };
    let call = |shape, out| AttentionCall { inputs: data.inputs(), shape, out };
    let calls = vec![call(SHAPE, &mut first[..]), call(late, &mut second[..])];
    assert!(Kernels::detect().attention_each(&pool(1), calls).is_err());
    assert_eq!([first, second], [[7.0; 160], [7.0; 160]]);
}
